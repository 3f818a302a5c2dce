"""The fuzzer of the command line.

python -m tests.fuzz --count 300
python -m tests.fuzz --case NAME:SEED:INDEX      one case again
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library starts a pool of threads, which a fork would lose


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Run hostile inputs through hwnas.")
    parser.add_argument("--seed", default="1", help="seed of the cases")
    parser.add_argument("--count", type=int, default=300, help="number of cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", action="append", help="run this case again, NAME:SEED:INDEX")
    parser.add_argument("--only", action="append", help="only these grammars")
    parser.add_argument("--valid", action="store_true", help="run the commands on valid files, which must end with 0")
    parser.add_argument("--slow", action="store_true", help="grammars whose cases take seconds as well")
    parser.add_argument("--full-disks", type=int, default=0, help="full disks to try after the cases")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--seeds", type=Path, help="folder of valid files, made if it does not exist")
    parser.add_argument("--keep", type=Path, help="keep the folders of failed cases here")
    parser.add_argument("--list", type=Path, help="write the failures here as JSON lines")
    parser.add_argument("--verbose", action="store_true", help="print each case")
    options = parser.parse_args(arguments)

    from tests.fuzz.full_disk import Tally, fill_disks
    from tests.fuzz.grammars import BY_NAME, GRAMMARS
    from tests.fuzz.run import import_everything, print_failures, print_result, run_cases, schedule, valid_grammars
    from tests.fuzz.seeds import build

    import_everything()
    chosen = [grammar for grammar in GRAMMARS if grammar.quick or options.slow]
    if options.only:
        chosen = [BY_NAME[name] for name in options.only]
    cases = list(schedule(chosen, seed=options.seed, count=options.first + options.count))[options.first :]
    if options.valid:
        cases = [(grammar, f"{grammar.name}:valid:0") for grammar in valid_grammars(chosen)]
    if options.case:
        cases = [(BY_NAME[case.partition(":")[0]], case) for case in options.case]
    verbose = options.verbose or len(cases) == 1
    with tempfile.TemporaryDirectory(prefix="hwnas-fuzz-") as made:
        seeds = (options.seeds or Path(made) / "seeds").absolute()
        if not seeds.exists():
            build(seeds, slow=options.slow)
        folder = options.keep or Path(made) / "cases"
        summary = run_cases(
            cases,
            seeds=seeds,
            folder=folder.absolute(),
            jobs=options.jobs,
            report=print_result if verbose else None,
            keep=options.keep is not None,
        )
        disks = Tally()
        if options.full_disks:
            names = ("train", "profile", "fit", "table")
            disks = fill_disks(
                Path(made) / "work", seeds=seeds, names=names, count=options.full_disks, seed=options.seed
            )
    if not verbose:
        print_failures(summary.distinct())
    if options.list:
        options.list.write_text("".join(json.dumps(asdict(result)) + "\n" for result in summary.failed))
    if options.verbose:
        print(summary.costs())
    print("\n".join(disks.problems), file=sys.stderr)
    print(f"{summary}\n{disks}")
    return 1 if summary.failed or disks.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
