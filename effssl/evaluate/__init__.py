"""Turn finished runs into the numbers that papers report, on the run's own images or another set.

effssl evaluate RUN                                    # the run's own set
effssl evaluate RUN --data cifar100 --data-dir DIR     # transfer
effssl evaluate RUN_A RUN_B --pixels --to comparison   # one table of several
"""
