"""A figure's file says what it was made from, and the command runs that again."""

import warnings

import pytest

import workbench as wb
from workbench import charts
from workbench.cli.main import main
from workbench.cli.terminal import EXIT_ERROR, EXIT_OK
from workbench.errors import ResultError

FORMS = pytest.mark.parametrize("form", ["png", "svg", "pdf"])


@pytest.fixture(scope="module")
def results():
    few = {"iterations": 20}
    return {
        "shadowing & <more>": wb.run(wb.Scenario(backend="vmx", l2_params=few,
                                                 features={"vmcs_shadowing": True})),
        "ohne Zusätze": wb.run(wb.Scenario(backend="svm", l2_params=few)),
    }  # fmt: skip


@FORMS
@pytest.mark.parametrize("chart", [charts.exit_frequency, charts.cost, charts.tlb_flushes])
def test_every_form_gives_the_scenarios_back(results, chart, form, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = charts.save(chart(results), tmp_path / f"figure.{form}")
    assert charts.scenarios_of(path) == {name: r.scenario for name, r in results.items()}


@FORMS
def test_the_same_figure_gives_the_same_bytes(results, form, tmp_path):
    one, other = (charts.save(charts.cost(results), tmp_path / f"{n}.{form}") for n in "ab")
    assert one.read_bytes() == other.read_bytes()


@FORMS
def test_a_figure_runs_again(results, form, tmp_path, capsys):
    path = str(charts.save(charts.cost(results), tmp_path / f"figure.{form}"))
    assert main(["run", "--from-figure", path, "ohne Zusätze", "--json", "--quiet"]) == EXIT_OK
    assert results["ohne Zusätze"].provenance["scenario_hash"] in capsys.readouterr().out
    assert main(["run", "--from-figure", path]) == EXIT_ERROR
    assert "shadowing & <more>" in capsys.readouterr().err
    assert main(["run", "--from-figure", path, "neither"]) == EXIT_ERROR
    assert "'neither'" in capsys.readouterr().err


@FORMS
def test_a_figure_of_one_result_needs_no_label(results, form, tmp_path, capsys):
    path = charts.save(charts.cost(results["ohne Zusätze"]), tmp_path / f"figure.{form}")
    assert main(["run", "--from-figure", str(path), "--quiet"]) == EXIT_OK
    assert "SVM" in capsys.readouterr().out.upper()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.png", b"\x89PNG no more", "does not say"), ("a.svg", b"<svg", "does not say"),
     ("a.svg", b"<svg/>", "does not say"), ("a.pdf", b"%PDF-1.4 /Keywords (workbench:e30=)",
     "not a figure with its origin"), ("a.txt", b"", "not a figure"), ("none.png", None, "cannot read")],
)  # fmt: skip
def test_other_files_are_explained(name, content, said, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultError, match=said):
        charts.scenarios_of(path)


def test_nothing_to_run_is_said(capsys):
    assert main(["run"]) == EXIT_ERROR
    assert "--from-figure" in capsys.readouterr().err
