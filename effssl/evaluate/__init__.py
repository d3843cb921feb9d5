"""Turn finished runs into the numbers that papers report, on the run's own images or on another set.

python -m effssl.evaluate RUN                                             # the run's own set
python -m effssl.evaluate RUN --data cifar100 --data-dir DIR              # transfer
python -m effssl.evaluate RUN_A RUN_B --pixels --to comparison            # one table of several
"""
