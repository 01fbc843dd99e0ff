"""The command: what it prints, its exit codes, and that errors are one message."""

import json
import operator
import re
import subprocess
import sys
import time

import pytest

from workbench import simulate
from workbench.cli import run_commands as commands
from workbench.cli.main import main
from workbench.cli.terminal import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

FEW = ("--set", "l2_params.iterations=20")


def workbench(*options):
    command = [sys.executable, "-m", "workbench", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_importing_the_package_is_light():
    code = (
        "import sys, time; began = time.perf_counter(); import workbench;"
        "print(time.perf_counter() - began); print('numba' in sys.modules, 'pandas' in sys.modules)"
    )
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert loaded == "False False"
    assert float(seconds) < 1  # 0.01 s in fact; the margin is for a busy machine


def test_every_public_name_is_there():
    import workbench as wb

    for name in wb.__all__:
        assert getattr(wb, name) is not None, name
    with pytest.raises(AttributeError):
        operator.attrgetter("nothing_of_that_name")(wb)
    assert set(wb.__all__) <= set(dir(wb))


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == EXIT_OK
    text = capsys.readouterr().out
    assert set(re.findall(r"^    (\w+)(?:\s|$)", text, re.MULTILINE)) == set(commands.COMMANDS)
    assert "exit codes" in text


def test_wrong_options_are_usage_errors():
    for wrong in (["sweep"], ["fly"], ["run", "default_svm", "--fast"], ["list", "colours"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == EXIT_USAGE
    assert main([]) == EXIT_USAGE


def test_an_unknown_option_shows_the_options_of_its_command(capsys):
    with pytest.raises(SystemExit):
        main(["record", "--fast"])
    said = capsys.readouterr().err
    assert "--unfitted" in said and "workbench record: error: not understood: --fast" in said


def test_version(capsys):
    assert main(["--version"]) == EXIT_OK
    assert capsys.readouterr().out[0].isdigit()


def test_run_prints_tables():
    done = workbench("run", "default_svm", *FEW)
    assert done.returncode == EXIT_OK, done.stderr
    for word in ("Summary", "Exits per thousand", "VMRUN", "Bill per L2 operation", "CPUID"):
        assert word in done.stdout
    assert done.stderr == ""  # progress is for terminals only


def test_run_as_json_is_the_same_run(capsys):
    assert main(["run", "default_vmx", "--json", *FEW]) == EXIT_OK
    first = json.loads(capsys.readouterr().out)
    assert first["scenario"]["backend"] == "vmx"
    assert first["status"] == "stopped"
    assert {"exits", "costs", "tlb", "operations", "provenance"} <= set(first)
    main(["run", "default_vmx", "--json", *FEW])
    assert json.loads(capsys.readouterr().out)["fingerprint"] == first["fingerprint"]


def test_settings_can_be_changed_on_the_command_line():
    scenario = commands.read_scenario(
        "default_svm",
        ["backend=vmx", "features.vmcs_shadowing=on", "l2=touch", "l2_params.pages=0x10",
         "l2_page_size=4k", "price_values.HW_EXIT=12.5"],
    )  # fmt: skip
    assert scenario.backend == "vmx" and scenario.l2 == "touch"
    assert scenario.features == {"vmcs_shadowing": True}
    assert scenario.l2_params == {"pages": 16}
    assert scenario.price_values == {"HW_EXIT": 12.5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["run", "defualt_svm"], ["defualt_svm", "default_svm"]),
        (["run", "missing.toml"], ["missing.toml"]),
        (["run", "default_svm", "--set", "backend"], ["NAME=VALUE"]),
        (["run", "default_svm", "--set", "backend.x=1"], ["backend"]),
        (["run", "default_svm", "--set", "l2=cpuidd"], ["cpuidd", "cpuid"]),
        (["run", "default_svm", "--set", "features.vmcs_shadowing=on"], ["VMX", "back-end"]),
        (["run", "default_svm", "--set", "l2_params.iterations=0"], ["iterations", "1 to"]),
        (["run", "default_svm", "--set", "prices=nehalem"], ["nehalem"]),
        (["figures", "--formats", "gif"], ["gif"]),
        (["bench", "nothing"], ["nothing"]),
        (["cite", "nobody"], ["nobody"]),
        (["lab", "no-such.ipynb"], ["no-such.ipynb"]),
    ],
)
def test_bad_input_is_one_message_with_a_hint(options, words, capsys):
    assert main(options) == EXIT_ERROR
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("workbench: ") and "hint: " in said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def test_a_syntax_error_names_file_and_line(tmp_path, capsys):
    source = tmp_path / "wrong.S"
    source.write_text(".intel_syntax noprefix\n_start:\n  mvo eax, 1\n")
    assert main(["run", "default_svm", "--set", f"l2={source}"]) == EXIT_ERROR
    assert "wrong.S:3" in capsys.readouterr().err


def test_a_scenario_file_with_a_mistake_is_named(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text('backend = "svm"\niterations = 5\n')
    assert main(["run", str(file)]) == EXIT_ERROR
    assert "mine.toml" in capsys.readouterr().err


def test_a_mistake_is_put_down_to_the_file_or_to_the_change(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text('backend = "svm"')
    assert main(["run", str(file), "--set", "seeed=1"]) == EXIT_ERROR
    said = capsys.readouterr().err
    assert "--set seeed=1: no setting" in said and "mine.toml" not in said
    file.write_text("seeed = 1")
    assert main(["run", str(file), "--set", "seed=1"]) == EXIT_ERROR
    assert "mine.toml: no setting" in capsys.readouterr().err
    assert main(["run", str(tmp_path)]) == EXIT_ERROR
    assert "not a scenario file" in capsys.readouterr().err


def test_results_are_kept_and_not_overwritten(tmp_path, capsys):
    from workbench import load_result

    place = tmp_path / "kept"
    assert main(["run", "default_svm", "--out", str(place), *FEW]) == EXIT_OK
    kept = load_result(place)
    assert kept.scenario.l2_params == {"iterations": 20}
    assert main(["run", "default_svm", "--out", str(place), *FEW]) == EXIT_ERROR
    assert main(["run", "default_svm", "--out", str(place), "--overwrite", *FEW]) == EXIT_OK


def test_interrupt_has_its_exit_code(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "doctor", interrupted)
    assert main(["doctor"]) == EXIT_INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_list_shows_what_there_is(capsys):
    assert main(["list"]) == EXIT_OK
    text = capsys.readouterr().out
    for word in ("svm", "vmx", "minimal", "cpuid", "touch", "virtual_gif", "zen", "default_vmx"):
        assert word in text
    assert main(["list", "features"]) == EXIT_OK
    assert "GUESTS" not in capsys.readouterr().out


def test_doctor_tells_versions_and_cache(capsys):
    assert main(["doctor"]) == EXIT_OK
    text = capsys.readouterr().out
    for word in ("python", "numba", "cache", "compiled core", "processor"):
        assert word in text


def test_cite_prints_the_sources_of_the_prices_that_met_a_count(capsys, tmp_path):
    result = simulate.run(commands.read_scenario("default_svm"))
    assert main(["cite", "default_svm"]) == EXIT_OK
    some = capsys.readouterr().out
    assert some.strip() == result.cite()
    assert set(result.sources) < set(result.preset.sources)
    result.save(tmp_path / "kept")
    assert main(["cite", str(tmp_path / "kept")]) == EXIT_OK
    assert capsys.readouterr().out == some
    assert main(["cite", "--bibtex"]) == EXIT_OK
    every = capsys.readouterr().out
    assert every.count("@") > some.count("[")


def test_figures_are_written(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--formats", "svg"]
    assert main(["figures", "defaults", "gif", *options]) == EXIT_OK
    names = {path.name for path in tmp_path.iterdir()}
    assert {"exit_frequency.svg", "cost.svg", "tlb_flushes.svg", "summary.txt"} <= names
    assert {"gif.svg", "gif.csv", "gif.parquet", "gif.txt"} <= names
    said = capsys.readouterr().out
    assert str(tmp_path) in said and "gif: Claim" in said


def test_experiments_are_listed(capsys):
    assert main(["list", "experiments"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "msr-map   [Q1 (C1)]" in said and "Claim (ours)" in said


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m workbench list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr


def test_progress_is_shown_on_a_terminal(monkeypatch, capsys):
    from workbench.cli.terminal import ProgressLine
    from workbench.simulate import Progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressLine() as line:
        line.report(Progress("compiling the core: svm_route", 12, 40))
        time.sleep(0.15)
        line.report(Progress("running", 2_000_000, 10_000_000))
    said = capsys.readouterr().err
    assert "12 of 40" in said and "2.0 million instructions" in said


def test_calibrate_writes_a_preset_that_a_scenario_takes(tmp_path, capsys):
    target = tmp_path / "mine.csv"
    assert main(["calibrate", "skylake", "--out", str(target), "--quiet"]) == EXIT_OK
    assert "dvh-hypercall" in capsys.readouterr().out
    import workbench as wb

    assert wb.Scenario(backend="vmx", prices=str(target)).preset.core == "Skylake server"
    assert main(["calibrate", "skylake", "--out", str(target)]) == EXIT_ERROR
    assert main(["calibrate", "--out", str(target)]) == EXIT_ERROR
    assert main(["calibrate", "zen4"]) == EXIT_ERROR
    assert "no single-level rows" in capsys.readouterr().err


def test_record_prints_every_row_as_text_and_json(capsys):
    assert main(["record", "--quiet"]) == EXIT_OK
    assert "turtles-cpuid" in capsys.readouterr().out
    assert main(["record", "--quiet", "--json", "--unfitted"]) == EXIT_OK
    assert {"id", "predicted", "measured"} <= set(json.loads(capsys.readouterr().out)[0])
