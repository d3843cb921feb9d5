"""The race: seconds of training to an accuracy, effssl beside the tools that people use.

python analysis/race.py --data-dir DIR                      # CIFAR-10, two CPU cores: half a day
python analysis/race.py --data-dir DIR --preset gpu --seconds 10000
python analysis/race.py --preset digits                     # minutes, to see it work

lightly and solo-learn (Barlow Twins and VICReg, two views) and LeJEPA's minimal recipe train as
their documentation for CIFAR-10 says, with their own transforms, projectors, losses and optimizers,
imported from their packages: `pip install -e '.[race]'`; analysis/peers says which part is whose.
The authors' way is effssl with K = 2 and d = 8192. All have the same images and the same backbone,
in float32, but for `today`, which has its own; the validation split is judged by one linear probe,
while the clock pauses.

Rules, written before any run. First come six trials for every other contender
(race_contenders.py: documented, then rate, batch, weight and crops changed), a quarter as long as a
timed run, with a seed that is not reported; the best on the validation split is timed, for 900
seconds (cpu and gpu), with a schedule that ends there. Tools that end more than 3 points below the
best one with the first seed have no further seeds, nor has the authors' way: they cannot be what is
asked about. Recipes of effssl had their trials before (LOG.md) and are as long as their epochs;
`today` is timed at its end, others at 1/16, 1/8, 1/4, 0.4 and all of their length, each with its
own whole schedule, none read midway. The seconds in which they have another's accuracy at its end
are interpolated between the lengths, linearly in log seconds; ratios of seconds are paired by seed.
If the shortest run has the accuracy already its ratio is a lower bound, if none has it an upper
one.

Two questions of the last recipe of effssl: has it the accuracy of the best peer, the one with the
highest mean at its end, at least 3 times sooner? And that of `today`, the recipe of eaf5b10, in at
most 40% of its seconds, 2.5 times sooner? Student's t on log ratios at 5%, or a sign test where
bounds are, says yes or no, else the answer is open; three seeds with a bound are always open.

All runs of a seed have to be of one machine, as ratios are paired by seed; seeds may be of several:
--records FILE --save-records carries finished runs from one to the next.

Runs go one at a time, contenders by turns, with nothing beside them: beside other work steps get
slower for some more than for others, and the command warns of a load. The same command goes on; a
run of another tool that was stopped begins again, so --seconds has to be longer than one takes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd

from analysis.harness import cli, race_runs, race_tables, records, runs
from analysis.harness.claims import PROBE, splits_in_words
from analysis.harness.plots import write_picture
from analysis.harness.race_contenders import OURS, RACES, Contender
from analysis.harness.race_runs import Race, Start
from analysis.harness.tables import markdown, write_csv
from analysis.harness.training import diverged, has_result
from effssl import InputError
from effssl.run.files import check_writable, write_text

SOONER_THAN_PEERS, SOONER_THAN_TODAY = 3.0, 2.5
IN_REACH = 0.03  # of the best tool, to race with more than one seed
TODAY = "today"


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(
        __doc__, RACES, "runs/race-PRESET", "3", "Runs go one at a time: --parallel is 1.\n"
    )
    add = parser.add_argument
    add("--run-seconds", type=_above_0, metavar="S", help="of the others' timed runs")
    first = "of --seeds, which others follow: a machine has to run a seed as a whole (default: 0)"
    add("--first-seed", type=int, default=0, metavar="N", help=first)
    add("--only", nargs="+", metavar="NAME", help="contenders (default: all of the preset)")
    cli.add_records(parser, None)
    args = cli.read_flags(parser, argv)
    if args.parallel not in (None, 1):
        parser.error(f"--parallel {args.parallel}: runs of a race go one at a time")
    return cli.exit_code(lambda: _race(*_opened(args)))


def _above_0(text: str) -> float:
    if not 0 < (number := float(text)) < 1e6:
        raise ValueError
    return number


def _opened(args) -> tuple[Race, list[Contender]]:
    """Return the race, and all of its contenders, with those that are not installed."""
    preset = RACES[args.preset]
    args.runs = args.runs or Path(f"runs/race-{args.preset}")
    args.out = args.out or args.runs / "race"
    args.seeds, args.run_seconds = args.seeds or 3, args.run_seconds or preset.seconds
    every = [*preset.ours, *preset.contenders]
    names = [each.name for each in every]
    if unknown := sorted(set(args.only or ()) - set(names)):
        raise InputError(f"--only {' '.join(unknown)}: contenders are {', '.join(names)}")
    if not 0 <= args.first_seed < args.seeds:
        raise InputError(f"--first-seed {args.first_seed}: must be one of 0 to {args.seeds - 1}")
    if args.seeds > race_runs.TRIAL_SEED:
        raise InputError(f"--seeds {args.seeds}: seed {race_runs.TRIAL_SEED} is that of the trials")
    wanted = [each for each in every if each.name in (args.only or names)]
    racing = tuple(each for each in wanted if each.is_installed)
    for each in wanted:
        if each not in racing:
            print(f"{each.name} does not race: {each.package} is not installed: {each.install}")
    if not racing:
        raise InputError("no contender is installed")
    if args.save_records and args.records is None:
        raise InputError("--save-records needs --records FILE, where they go")
    known = {} if args.records is None else records.known(args, args.records)
    return Race(args, preset, racing, known), wanted


def _race(race: Race, wanted: list[Contender]) -> None:
    check_writable(race.args.out, f"--out {race.args.out}")
    began = time.monotonic()
    tried = race_runs.trained(race, every_trial := race_runs.trials(race), began)
    chosen = choose(race, tried)
    seeds = [(race.args.first_seed + i) % race.args.seeds for i in range(race.args.seeds)]
    starts = race_runs.timed(race, chosen, seeds[:1])
    # All have had their trials before any is timed.
    is_chosen = len(chosen) + len(out_of_the_race(race)) == len(race.contenders)
    finished = race_runs.trained(race, starts, began) if is_chosen else []
    if is_chosen and all(s in finished or _has_diverged(race, s) for s in starts):
        rows = race_tables.table([(start, race_runs.record_of(race, start)) for start in finished])
        on = race._replace(contenders=race_tables.in_reach(rows, race.contenders, IN_REACH))
        further = race_runs.timed(on, chosen, seeds[1:])
        starts += further
        finished += race_runs.trained(race, further, began)
    print(f"{runs.finished_of(tried, every_trial)} trials are finished")
    print(f"{runs.finished_of(finished, starts)} timed runs are finished")
    if race.args.save_records:
        here = [start for start in (*tried, *finished) if has_result(race.args.runs / start.name)]
        records.save(race.args.records, [race_runs.record_of(race, start) for start in here])
    if tried or finished:
        _write(race, wanted, tried, finished, chosen)


def _has_diverged(race: Race, start: Start) -> bool:
    return diverged(race.args.runs / start.name)


def out_of_the_race(race: Race) -> set[str]:
    """Return the names of the contenders whose trials have diverged, all of them."""
    trials = race_runs.trials(race)
    still_in = {start.contender.name for start in trials if not _has_diverged(race, start)}
    return {start.contender.name for start in trials} - still_in


def choose(race: Race, tried: list[Start]) -> dict[str, int]:
    """Return the best trial of each contender that has all of its own, those included that
    diverged; of equals the first. What has one only has no choice."""
    rows = race_tables.table([(start, race_runs.record_of(race, start)) for start in tried])
    chosen = {each.name: 0 for each in race.contenders if len(each.trials) == 1}
    for each in race.contenders:
        own = [start for start in race_runs.trials(race) if start.contender == each]
        failed = {start.trial for start in own if _has_diverged(race, start)}
        ended = rows[rows["contender"] == each.name] if len(rows) else rows
        reached = dict(zip(ended["trial"], ended["linear"], strict=True)) if len(ended) else {}
        if reached and len(reached) + len(failed) == len(own):
            chosen[each.name] = max(sorted(reached), key=lambda trial: reached[trial])
    return chosen


def _write(
    race: Race,
    wanted: list[Contender],
    tried: list[Start],
    finished: list[Start],
    chosen: dict[str, int],
) -> None:
    """Write runs.csv, trials.csv, curves.csv, ratios.csv, race.png and summary.md."""
    out: Path = race.args.out
    of_trials = [(start, race_runs.record_of(race, start)) for start in tried]
    of_runs = [(start, race_runs.record_of(race, start)) for start in finished]
    trials, rows = race_tables.table(of_trials), race_tables.table(of_runs)
    probes = race_tables.curves(of_runs)
    all_compared = list(race_tables.compared(rows, race.contenders)) if len(rows) else []
    peer = race_tables.best_peer(rows, race.contenders) if len(rows) else None
    lines = race_tables.ratios(all_compared)
    failed = {start.name for start in race_runs.trials(race) if _has_diverged(race, start)}
    text = f"{verdict(race, all_compared, peer)}\n\n"
    text += race_tables.standings(rows, probes, wanted, chosen, out_of_the_race(race))
    text += f"\n{markdown(lines)}\nTrials, linear probe in %:\n\n"
    text += race_tables.trials_table(trials, wanted, failed)
    text += f"\n{PROBE} {splits_in_words(rows) if len(rows) else ''}\n\n"
    results = [record["result"] for _, record in (*of_trials, *of_runs)]
    if mixed := race_tables.of_several_machines(of_runs):
        text += f"Ratios of seeds {mixed} are no figures: their runs are of several machines.\n\n"
    text += f"{runs.origin(results, race.args.command)}\n"
    write_csv(out / "trials.csv", trials)
    if len(rows):
        write_csv(out / "runs.csv", rows)
        write_csv(out / "curves.csv", probes)
        write_csv(out / "ratios.csv", lines or pd.DataFrame())
        target = race_tables.ended_at(rows, peer) if peer else None
        write_picture(out / "race.png", race_tables.picture(probes, race.contenders, target))
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'summary.md'}")


def verdict(race: Race, all_compared: list[race_tables.Compared], peer: str | None) -> str:
    """Answer the two questions, about the last recipe of effssl that races."""
    ours = [each.name for each in race.contenders if each.side == OURS]
    answers = []
    for other, factor in ((peer, SOONER_THAN_PEERS), (TODAY, SOONER_THAN_TODAY)):
        found = [c for c in all_compared if ours and c.name == ours[-1] and c.other == other]
        what = (
            f"the best peer ({peer or 'none is finished'})" if other == peer else "today's recipe"
        )
        if not found:
            answers.append(f"At least {factor:g} times sooner than {what}: not measured.")
            continue
        times = found[0].times
        spread = f" ({times.interval})" if times.interval else ""
        answers.append(
            f"At least {factor:g} times sooner than {what}: **{times.outcome(factor)}**, "
            f"{times.mean or 'not known'} times{spread}, {times.n} seeds."
        )
    return " ".join(answers)


if __name__ == "__main__":
    sys.exit(main())
