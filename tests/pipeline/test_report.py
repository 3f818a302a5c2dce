from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.pipeline.report import MAX_RUNS, write_report
from tests.report.example import Example, make_run

SMALL = Example(space="autoformer-micro", count=40)


def test_everything_is_written_and_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", SMALL)
    written = write_report(run)
    assert written.page == run / "report.html"
    assert [path.name for path in written.tables] == ["front.csv", "front.json", "front.md"]
    assert all(path.is_file() for path in (written.page, *written.tables, *written.figures))
    (summary,) = written.runs
    assert (summary.run, summary.finished, summary.num_candidates) == (run, True, 40)
    assert summary.verdict.startswith("The search explored 40 networks of autoformer-micro and found ")
    assert f" found {summary.num_front} on the Pareto front" in summary.verdict


def test_a_report_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", SMALL)
    first = write_report(run).page.read_bytes()
    assert write_report([run]).page.read_bytes() == first


def test_a_search_that_goes_on_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", Example(space="autoformer-micro", count=40, finished=False))
    (summary,) = write_report(run, out=tmp_path / "out").runs
    assert not summary.finished
    assert summary.warnings[0].startswith("This search has not finished or was interrupted")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(("count", "message"), [(0, "needs the run"), (2, "twice"), (MAX_RUNS + 1, "at most 6 runs")])
def test_which_runs_go_on_a_page(tmp_path: Path, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_report([tmp_path] * count)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(run, out=tmp_path / "file" / "out")


def test_a_link_in_a_run_is_not_written_through(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", Example(count=40))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "front.png").write_text("my picture")
    (run / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="must stay within"):
        write_report(run)
    (run / "figures").unlink()
    (run / "report.html").symlink_to(tmp_path / "mine" / "front.png")
    write_report(run)
    assert (tmp_path / "mine" / "front.png").read_text() == "my picture"
    assert not (run / "report.html").is_symlink()
