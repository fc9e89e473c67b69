//! Whatever Python an agent program has, and by whatever means of Python it starts processes: it works, it has its identity,
//! and they have none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_tests::clients::shared_python;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::stage::{CLASS, Stage, client, measured};

/// Debian's own, which every user can reach.
const PYTHON: &str = "/usr/bin/python3";

/// The means of Python to start a process.
const MEANS: [&str; 10] = [
    "spawn",
    "forkserver",
    "fork",
    "pool",
    "subprocess",
    "shell",
    "asyncio",
    "posix_spawn",
    "spawnv",
    "fork and exec",
];

/// A deployment with a class of that Python, which `prepare` puts in place.
async fn stage(prepare: impl FnOnce(&Path) -> PathBuf, more: &str) -> (Stage, PathBuf) {
    let mut stage = Stage::empty().await.unwrap();
    for name in ["raw.py", "runs/pythons.py"] {
        stage.script = stage.at.path(name.rsplit('/').next().unwrap());
        client(name, &stage.script).unwrap();
    }
    let python = prepare(&stage.at.path(""));
    let spec = stage.spec().unwrap();
    let (head, _) = spec.split_once("\n[program]").unwrap();
    let spec = format!(
        "{more}{head}\n[program]\nexecutable = {}\nscript = {}\nextra_args = true\n",
        measured(&python).unwrap(),
        measured(&stage.script).unwrap()
    );
    stage.class("researcher", CLASS, &spec).await.unwrap();
    (stage, python)
}

/// Runs it, with this variable; the prefix and the path that it says it has.
async fn told(stage: &Stage, python: &Path, variable: Option<String>) -> serde_json::Value {
    let mut request = stage.request(&[]);
    request.arguments = [python, &stage.script]
        .map(|path| path.to_str().unwrap().as_bytes().to_vec())
        .into();
    request.environment.extend(variable.map(String::into_bytes));
    let (_, told) = stage.told_of(request).await.unwrap();
    let svid = json!("svid");
    let [
        (main, first),
        (_, prefix),
        started @ ..,
        (_, faulthandler),
        (again, last),
    ] = told.as_slice()
    else {
        unreachable!("{told:?}");
    };
    assert_eq!((main.as_str(), first), ("main", &svid));
    assert_eq!((again.as_str(), last), ("again", &svid));
    assert_eq!(faulthandler, &json!(true));
    let nothing = json!({ "svid": "refused", "key": "shut out" });
    let expected = MEANS.map(|means| (means.to_owned(), nothing.clone()));
    assert_eq!(started, expected);
    prefix.clone()
}

#[tokio::test]
async fn the_hosts_own_python_keeps_its_identity_from_all_that_it_starts() {
    require!(Need::Root);
    let (stage, python) = stage(|_| PYTHON.into(), "").await;
    assert_eq!(told(&stage, &python, None).await, json!(["/usr", PYTHON]));
    let mut request = stage.request(&["crash"]);
    request.arguments = vec![
        PYTHON.into(),
        stage.script.to_str().unwrap().into(),
        "crash".into(),
    ];
    let mut run = stage.launch(request).await.unwrap();
    let ended = run.ended().await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Signalled(11)));
    let said = stage.output(&ended.run_id).await.unwrap();
    assert!(said.contains("Fatal Python error: Segmentation fault"), "{said}");
}

#[tokio::test]
async fn so_does_that_of_a_virtual_environment_which_it_knows_to_be_in() {
    require!(Need::Root);
    let made = |folder: &Path| {
        let venv = folder.join("venv");
        let mut command = Command::new(PYTHON);
        let made = command.args(["-m", "venv", "--without-pip"]).arg(&venv).status();
        assert!(made.unwrap().success());
        venv.join("bin/python3")
    };
    let (stage, python) = stage(made, "").await;
    let prefix = stage.at.path("venv");
    assert_eq!(told(&stage, &python, None).await, json!([prefix, python]));
}

/// Puts a Python with its library where every user can reach it, without what nobody needs.
const COPIES: &str = "import shutil, sys, sysconfig\nfrom pathlib import Path\nto = Path(sys.argv[1])\n\
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'\n\
    away = shutil.ignore_patterns('test', 'tests', 'site-packages', '__pycache__', 'config-*', 'idlelib', 'ensurepip')\n\
    shutil.copytree(sysconfig.get_path('stdlib'), to / 'lib' / version, ignore=away)\n(to / 'bin').mkdir()\n\
    library = sysconfig.get_config_var('INSTSONAME')\n\
    shutil.copy(Path(sysconfig.get_config_var('LIBDIR')) / library, to / 'lib' / library)\n\
    shutil.copy(Path(sys.executable).resolve(), to / 'bin' / version)\nprint(to / 'bin' / version)";

#[tokio::test]
async fn so_does_one_whose_library_is_shared() {
    require!(Need::Root, Need::SharedPython);
    let copied = |folder: &Path| {
        let mut command = Command::new(shared_python().unwrap());
        let output = command.args(["-c", COPIES]).arg(folder.join("shared")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = String::from_utf8(output.stdout).unwrap();
        fs::canonicalize(path.trim()).unwrap()
    };
    let (stage, python) = stage(copied, "env_allow = [\"LD_LIBRARY_PATH\"]\n").await;
    let prefix = stage.at.path("shared");
    let library = format!("LD_LIBRARY_PATH={}", prefix.join("lib").display());
    let said = told(&stage, &python, Some(library)).await;
    assert_eq!(said, json!([prefix, python]));
}
