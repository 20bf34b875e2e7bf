"""What runs in other people's CI: action and template fit their schemas, and their shell steps do their work."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((ROOT / "ci/gitlab.yml").read_text(encoding="utf-8"))
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"] if "id" in step}
PUSHED = {
    "github.event_name": "push",
    "github.ref": "refs/heads/main",
    "github.event.repository.default_branch": "main",
}
#: Stands for the installed command: notes how it was called, writes a certificate's folder, ends as it is told.
ROBUSTKIT = """#!{python}
import json, os, pathlib, sys
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "compare":
    print("steps: regression `` ` ``` in a fence")
    sys.exit(int(os.environ.get("COMPARE", 0)))
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir()
for name in ("badge.svg", "badge.json", "trials.parquet"):
    (folder / name).write_text(name)
statement = {{
    "subject": [{{"name": "my codec.py", "digest": {{"sha256": "a" * 64}}}}],
    "predicate": {{"result": "PASSED"}},
}}
(folder / "certificate.intoto.jsonl").write_text(json.dumps(statement) + "\\n{{}}\\n")
(folder / "summary.md").write_text("# steps: conforms\\n" + "long line\\n" * int(os.environ.get("LINES", 1)))
sys.exit(int(os.environ.get("CERTIFY", 0)))
"""


class Runner:
    """A machine that runs the action's shell steps as GitHub's runner does."""

    def __init__(self, folder, *, real=None, **inputs):
        self.folder = folder
        self.values = {f"inputs.{key}": str(spec.get("default", "")) for key, spec in ACTION["inputs"].items()}
        self.values |= {f"inputs.{key}": value for key, value in inputs.items()}
        self.values |= PUSHED | {"github.action_path": str(ROOT), "runner.temp": str(folder / "temp")}
        (folder / "temp").mkdir()
        self.summary = folder / "summary"
        if real is not None:
            self.path = real
            return
        self.path = folder / "bin"
        self.path.mkdir()
        (self.path / "python").symlink_to(sys.executable)
        (self.path / "robustkit").write_text(ROBUSTKIT.format(python=sys.executable))
        (self.path / "robustkit").chmod(0o755)

    def filled(self, text):
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self.values.get(found[1], ""), str(text))

    def run(self, *steps, status=0, **environment):
        """Run steps one after the other; the last one's output. ``environment`` is for the stand-in."""
        done = None
        for name in steps:
            step, output = STEPS[name], self.folder / f"output-{name}"
            output.touch()
            script = self.folder / f"{name}.sh"
            script.write_text(step["run"])
            assert step["shell"] == "bash"
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
                cwd=self.folder,
                env={
                    "PATH": f"{self.path}:/usr/bin:/bin",
                    "GITHUB_OUTPUT": str(output),
                    "GITHUB_STEP_SUMMARY": str(self.summary),
                    "RUNNER_TEMP": str(self.folder / "temp"),
                    **{key: self.filled(value) for key, value in step.get("env", {}).items()},
                    **environment,
                },
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == (status if name == steps[-1] else 0), done.stdout + done.stderr
            for line in output.read_text().splitlines():
                key, _, value = line.partition("=")
                self.values[f"steps.{name}.outputs.{key}"] = value
        return done.stdout

    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("github-actions", "action.yml"),
        ("gitlab-ci", "ci/gitlab.yml"),
        ("github-workflows", "examples/my_codec/.github/workflows/robustness.yml"),
    ],
)
def test_it_fits_its_schema(schema, file):
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", ROOT / file]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def workflows():
    """Workflows by name: those that are shown, and the action as one, because its steps are checked only there."""
    example = ROOT / "examples/my_codec/.github/workflows/robustness.yml"
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(encoding="utf-8"), re.DOTALL)
    inputs = {
        name: {"type": "string", **{key: spec[key] for key in ("description", "required", "default") if key in spec}}
        for name, spec in ACTION["inputs"].items()
    }
    outputs = {name: spec["value"] for name, spec in ACTION["outputs"].items()}
    jobs = {"a": {"runs-on": "ubuntu-latest", "outputs": outputs, "steps": ACTION["runs"]["steps"]}}
    certifying, publishing = (text for text in shown if "runs-on" in text)
    return {
        "example": example.read_text(encoding="utf-8"),
        "page": certifying + publishing,
        "action": yaml.safe_dump({"name": "a", "on": {"workflow_call": {"inputs": inputs}}, "jobs": jobs}),
    }


#: Where this environment's programs are found, which need not be activated, and others.
PROGRAMS = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"


@pytest.mark.skipif(not shutil.which("actionlint", path=PROGRAMS), reason="needs actionlint: pip install '.[test]'")
@pytest.mark.parametrize("name", ["example", "page", "action"])
def test_actionlint_finds_nothing(tmp_path, name):
    """Shell steps are looked at too, where shellcheck is there."""
    file = tmp_path / ".github" / "workflows" / f"{name}.yml"
    file.parent.mkdir(parents=True)
    file.write_text(workflows()[name], encoding="utf-8")
    done = subprocess.run(
        [shutil.which("actionlint", path=PROGRAMS), "-no-color", file],
        env=os.environ | {"PATH": PROGRAMS},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_other_actions_are_pinned_and_nothing_is_put_into_a_script():
    used = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert len(used) == 3
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in used)
    # A branch may be called `$(...)`: what comes from outside goes through the environment.
    assert not [name for name, step in STEPS.items() if "${{" in step["run"]]


def test_the_artifact_begins_at_the_certificates_folder():
    # It begins where all its paths meet, and docs/ci.md publishes `certificate` out of it.
    (upload,) = [step for step in ACTION["runs"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["with"]["path"].split("\n")[:-1] == ["${{ inputs.folder }}", "robustkit-report"]


def test_what_the_steps_and_outputs_name_is_there():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"steps\.(\w+)\.outputs", text)) <= STEPS.keys()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == ACTION["inputs"].keys()
    for name, key in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", text):
        assert f'"{key}=$' in STEPS[name]["run"], (name, key)


def test_a_push_to_main_certifies_summarises_publishes_and_has_what_is_attested(tmp_path):
    runner = Runner(tmp_path, codec="steps:Steps", arguments="--trials\n5\n--robustkit-x=a b")
    runner.run("certify", "publish", "summary", "predicate", "verdict")
    assert runner.calls() == [
        ["certify", "steps:Steps", "--out", "certificate", "--effort", "ci", "--trials", "5", "--robustkit-x=a b"]
    ]
    assert runner.values["steps.publish.outputs.published"] == "true"
    assert (tmp_path / "certificate/badge.svg").is_file()
    assert runner.summary.read_text().startswith("# steps: conforms\n")
    assert json.loads((tmp_path / "temp/predicate.json").read_text()) == {"result": "PASSED"}
    # As shasum writes them, which is what the attesting action reads.
    subjects = dict(reversed(line.split("  ")) for line in (tmp_path / "temp/subjects.txt").read_text().splitlines())
    assert subjects == {
        "my codec.py": "a" * 64,
        "certificate.intoto.jsonl": hashlib.sha256(
            (tmp_path / "certificate/certificate.intoto.jsonl").read_bytes()
        ).hexdigest(),
        "trials.parquet": hashlib.sha256(b"trials.parquet").hexdigest(),
    }
    attesting = [step for step in ACTION["runs"]["steps"] if "attest" in step.get("uses", "")]
    assert [step["if"] for step in attesting] == [STEPS["predicate"]["if"]]
    assert "steps.publish.outputs.published == 'true'" in attesting[0]["if"]


@pytest.mark.parametrize(
    "other",
    [
        {"github.event_name": "pull_request", "github.ref": "refs/pull/7/merge"},
        {"github.ref": "refs/heads/feature"},
        {"github.event_name": "schedule"},
    ],
)
def test_any_other_run_has_no_badge_and_attests_nothing(tmp_path, other):
    runner = Runner(tmp_path, codec="steps:Steps")
    runner.values |= other
    runner.run("certify", "publish", "summary", "verdict")
    assert runner.values["steps.publish.outputs.published"] == "false"
    assert not list((tmp_path / "certificate").glob("badge.*"))
    assert runner.summary.read_text().startswith("# steps: conforms\n")


def test_what_a_certificate_withholds_is_not_in_the_artifact(tmp_path):
    def reported(**inputs):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for name in ("index.html", "baseline.jsonl", "replay/steps/a.bin", "streams/b.bin"):
            file = folder / "robustkit-report" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
        Runner(folder, codec="steps:Steps", **inputs).run("certify", "publish")
        return {path.name for path in (folder / "robustkit-report").rglob("*.*")}

    assert reported(arguments="--map\n9\n--withhold-reproducers") == {"index.html", "baseline.jsonl"}
    assert reported() >= {"a.bin", "b.bin"}
    assert "*withhold-reproducers*" in GITLAB[".robustkit"]["script"][1]


def test_no_step_but_the_attesting_one_has_a_token():
    # So a pull request from a fork, whose token reads only, runs all the others.
    text = json.dumps([step for step in ACTION["runs"]["steps"] if "attest" not in step.get("uses", "")])
    assert not re.search(r"token|secrets\.", text)


def test_a_long_summary_is_cut_between_two_lines_and_says_where_the_rest_is(tmp_path):
    runner = Runner(tmp_path, codec="steps:Steps")
    runner.run("certify", "summary", LINES="200000")
    text = runner.summary.read_bytes()
    assert 900_000 < len(text) < 1 << 20
    assert text.endswith(b"long line\n\nCut here. The whole summary is in the artifact `robustkit`.\n")


def test_a_codec_that_breaks_a_claim_fails_the_job_after_all_is_kept(tmp_path):
    runner = Runner(tmp_path, codec="steps:Steps")
    runner.run("certify", "publish", "summary", CERTIFY="1")
    assert "robustkit certify ended with status 1" in runner.run("verdict", status=1)
    # What kept it from starting leaves no folder, and says so.
    (tmp_path / "second").mkdir()
    other = Runner(tmp_path / "second", codec="steps:Steps")
    other.run("publish", "summary")
    assert "No certificate was written" in other.summary.read_text()
    other.run("verdict", status=1)


@pytest.mark.parametrize(
    ("status", "undecided", "fails"),
    [(0, "warn", 0), (1, "warn", 1), (3, "warn", 0), (3, "fail", 1), (5, "warn", 1), (2, "warn", 1)],
)
def test_the_comparison_decides_too(tmp_path, status, undecided, fails):
    runner = Runner(tmp_path, codec="steps:Steps", baseline="baseline.jsonl", undecided=undecided)
    runner.run("certify", "compare", "publish", "summary", COMPARE=str(status))
    assert runner.calls()[1][:3] == ["compare", "baseline.jsonl", "certificate"]
    assert runner.calls()[1][3:] == ["--propose", "robustkit-report/baseline.jsonl"]
    assert (tmp_path / "robustkit-report").is_dir()
    assert runner.values["steps.compare.outputs.status"] == str(status)
    shown = runner.summary.read_text()
    assert "### Compared with the baseline" in shown
    # Nothing that it prints ends the fence.
    assert shown.count("```") == 2
    runner.run("verdict", status=fails)


def test_gitlabs_job_does_the_same(tmp_path):
    runner = Runner(tmp_path)
    job = GITLAB[".robustkit"]

    def run(status, **more):
        script = tmp_path / "job.sh"
        script.write_text(job["script"][1])
        done = subprocess.run(
            ["bash", "-eo", "pipefail", script],
            cwd=tmp_path,
            env={
                "PATH": f"{runner.path}:/usr/bin:/bin",
                "CI_DEFAULT_BRANCH": "main",
                **job["variables"],
                "ROBUSTKIT_CODEC": "steps:Steps",
                **more,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        kept = sorted(path.name for path in (tmp_path / "certificate").iterdir())
        for path in (tmp_path / "certificate").iterdir():
            path.unlink()
        (tmp_path / "certificate").rmdir()
        return done.stdout, kept

    said, kept = run(0, CI_COMMIT_BRANCH="main")
    assert "# steps: conforms" in said
    assert "badge.svg" in kept
    _, kept = run(0)
    assert "badge.svg" not in kept
    assert "ended with status 1" in run(1, CERTIFY="1")[0]
    more = {"ROBUSTKIT_BASELINE": "baseline.jsonl"}
    assert "robustkit compare ended with status 1" in run(1, COMPARE="1", **more)[0]
    assert "undecided" in run(0, COMPARE="3", **more)[0]
    run(1, COMPARE="3", ROBUSTKIT_UNDECIDED="fail", **more)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new virtual environment in which neither robustkit nor the example is; what they need comes from this one."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    # A .pth that is found by a .pth is not read, so this checkout's own editable install stays out.
    (site / "theirs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow
def test_a_third_partys_package_is_installed_certified_and_compared_as_its_workflow_does(fresh, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "examples/my_codec", checkout, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "my codec"]):
        subprocess.run([*git, *words], cwd=checkout, check=True, timeout=60)
    workflow = yaml.safe_load((checkout / ".github/workflows/robustness.yml").read_text(encoding="utf-8"))
    inputs = workflow["jobs"]["certify"]["steps"][-1]["with"]
    chosen = "round_trip or degrades or corrupted or golden or empty"
    arguments = "\n".join(["--", "-k", chosen, "--robustkit-max-examples=4"])
    runner = Runner(checkout, real=fresh / "bin", arguments=arguments, effort="quick", **inputs)
    # Both are built here, and no index is asked.
    runner.run(
        "install", PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", PIP_DISABLE_PIP_VERSION_CHECK="1", TMPDIR=str(tmp_path)
    )
    where = "import robustkit, my_codec; print(robustkit.__file__, my_codec.__file__)"
    clean = {"PATH": f"{fresh / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    found = subprocess.run(
        [fresh / "bin/python", "-c", where], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True
    )
    assert found.stdout.count(f"{fresh}/lib/") == 2
    own = subprocess.run(
        [fresh / "bin/python", "-m", "pytest", "-q"],
        cwd=checkout,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert own.returncode == 0, own.stdout + own.stderr
    said = runner.run("certify", HOME=str(tmp_path))
    assert "my-codec: " in said
    said = runner.run("compare")
    # As many as decide, of those that the baseline has.
    assert re.search(r"my-codec: unchanged: 6 clean streams and \d{3} trials are the same", said), said
    runner.run("publish", "summary", "predicate", "verdict")
    assert runner.values["steps.publish.outputs.published"] == "true"
    assert runner.values["steps.compare.outputs.status"] == "0"
    shown = runner.summary.read_text(encoding="utf-8")
    assert "my-codec" in shown
    assert "### Compared with the baseline" in shown
    assert "registered before the run" not in shown  # the lock speaks of another effort
    assert {path.name for path in (checkout / "certificate").iterdir()} >= {"certificate.html", "badge.svg"}
    assert (checkout / "temp/subjects.txt").read_text().count("certificate.html") == 1
