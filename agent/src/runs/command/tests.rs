//! Commands against classes: first what is refused.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A folder with a program, a script and a link to each.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["python3", "agent.py", "other.py"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        symlink(folder.path().join("python3"), folder.path().join("python")).unwrap();
        symlink(folder.path().join("agent.py"), folder.path().join("link.py")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn file(&self, name: &str) -> proto::MeasuredFile {
        proto::MeasuredFile {
            path: self.path(name),
            sha256: Digest::of(name.as_bytes()).to_string(),
            role: 0,
        }
    }

    /// Python with a script, which takes arguments.
    fn spec(&self) -> proto::ClassSpec {
        proto::ClassSpec {
            program: Some(proto::Program {
                executable: Some(self.file("python3")),
                script: Some(self.file("agent.py")),
                extra_args: true,
                ..proto::Program::default()
            }),
            ..proto::ClassSpec::default()
        }
    }

    fn request(&self, arguments: &[&str]) -> LaunchRequest {
        LaunchRequest {
            arguments: arguments.iter().map(|text| text.as_bytes().to_vec()).collect(),
            environment: vec![format!("PATH=/nowhere:{}", self.path("")).into_bytes()],
            working_directory: self.path("").into_bytes(),
            ..LaunchRequest::default()
        }
    }
}

fn sockets() -> Sockets {
    Sockets {
        workload: "/run/workload.sock".into(),
        launch: "/run/launch.sock".into(),
    }
}

fn of(request: &LaunchRequest, spec: &proto::ClassSpec) -> Result<Command, CommandError> {
    Command::of(request, spec, &sockets())
}

fn value<'a>(command: &'a Command, name: &str) -> Option<&'a str> {
    let found = command.env.iter().find(|(known, _)| known == name);
    found.and_then(|(_, value)| value.to_str())
}

#[test]
fn another_program_is_refused() {
    let files = Files::new();
    for other in ["/bin/sh", "sh", "./agent.py", "../python3", ""] {
        let refused = of(&files.request(&[other, "agent.py"]), &files.spec());
        assert!(
            matches!(refused, Err(CommandError::Program { .. })),
            "{other}: {refused:?}"
        );
    }
}

#[test]
fn another_script_and_options_of_the_interpreter_are_refused() {
    let files = Files::new();
    for other in [
        &["other.py"][..],
        &["-c", "agent.py"],
        &["-m", "agent"],
        &["-i", "agent.py"],
        &[""],
        &[],
    ] {
        let command = [&["python3"][..], other].concat();
        let refused = of(&files.request(&command), &files.spec());
        assert!(
            matches!(refused, Err(CommandError::Code { .. })),
            "{other:?}: {refused:?}"
        );
    }
    let mut spec = files.spec();
    let program = spec.program.as_mut().unwrap();
    (program.script, program.module) = (None, "agent".to_owned());
    for other in [&["-m", "other"][..], &["-m"], &["agent.py"]] {
        let command = [&["python3"][..], other].concat();
        let refused = of(&files.request(&command), &spec);
        assert!(
            matches!(refused, Err(CommandError::Code { .. })),
            "{other:?}: {refused:?}"
        );
    }
}

#[test]
fn arguments_are_added_only_where_the_class_lets_them() {
    let files = Files::new();
    let mut spec = files.spec();
    let program = spec.program.as_mut().unwrap();
    program.extra_args = false;
    program.fixed_args = vec!["--quiet".to_owned(), "--deep".to_owned()];
    for other in [
        &["more"][..],
        &["--quiet"],
        &["--quiet", "--deep", "more"],
        &["--deep", "--quiet"],
    ] {
        let command = [&["python3", "agent.py"][..], other].concat();
        let refused = of(&files.request(&command), &spec);
        assert!(
            matches!(refused, Err(CommandError::ExtraArguments(_))),
            "{other:?}: {refused:?}"
        );
    }
    let (program, script) = (files.path("python3"), files.path("agent.py"));
    let whole = [program.as_str(), script.as_str(), "--quiet", "--deep"];
    for command in [
        &["python3", "agent.py"][..],
        &["python3", "agent.py", "--quiet", "--deep"],
        &[],
    ] {
        assert_eq!(
            of(&files.request(command), &spec).unwrap().argv,
            whole,
            "{command:?}"
        );
    }
}

#[test]
fn what_is_started_are_the_classs_own_paths() {
    let files = Files::new();
    let absolute = [files.path("python"), files.path("link.py")];
    for command in [
        ["python3", "agent.py"],
        ["./python", "./link.py"],
        [absolute[0].as_str(), absolute[1].as_str()],
    ] {
        let command = [&command[..], &["one", "two"]].concat();
        let found = of(&files.request(&command), &files.spec()).unwrap();
        let (program, script) = (files.path("python3"), files.path("agent.py"));
        let argv = [program.as_str(), script.as_str(), "one", "two"];
        assert_eq!(found.argv, argv, "{command:?}");
        assert_eq!(found.program.path, Path::new(&files.path("python3")));
        assert_eq!(found.files.len(), 1);
        assert!(found.immutable);
    }
}

#[test]
fn the_environment_is_without_what_loaders_obey_and_has_what_a_run_needs() {
    let files = Files::new();
    let mut request = files.request(&[]);
    for variable in [
        "LD_PRELOAD=/x.so",
        "PYTHONPATH=/x",
        "API_KEY=a=b",
        "EMPTY=",
        "SPIFFE_ENDPOINT_SOCKET=unix:///x",
    ] {
        request.environment.push(variable.as_bytes().to_vec());
    }
    let mut spec = files.spec();
    spec.env_allow = vec!["PYTHONPATH".to_owned()];
    let command = of(&request, &spec).unwrap();
    assert_eq!(command.dropped, ["LD_PRELOAD"]);
    assert_eq!(value(&command, "PYTHONPATH"), Some("/x"));
    assert_eq!(value(&command, "API_KEY"), Some("a=b"));
    assert_eq!(value(&command, "EMPTY"), Some(""));
    assert_eq!(
        value(&command, "SPIFFE_ENDPOINT_SOCKET"),
        Some("unix:///run/workload.sock")
    );
    assert_eq!(
        value(&command, "VOUCHSAFE_LAUNCH_SOCKET"),
        Some("/run/launch.sock")
    );
    // Folders in which the user, or the launcher by its working directory, could put code.
    assert_eq!(value(&command, "PYTHONNOUSERSITE"), Some("1"));
    assert_eq!(value(&command, "PYTHONSAFEPATH"), None);
    let program = spec.program.as_mut().unwrap();
    (program.script, program.module) = (None, "agent".to_owned());
    let command = of(&request, &spec).unwrap();
    assert_eq!(value(&command, "PYTHONSAFEPATH"), Some("1"));
    for bad in ["NOVALUE", "=x", ""] {
        let mut request = files.request(&[]);
        request.environment.push(bad.as_bytes().to_vec());
        assert!(
            matches!(of(&request, &spec), Err(CommandError::Variable(_))),
            "{bad}"
        );
    }
}

#[test]
fn an_error_about_a_variable_tells_no_value() {
    let files = Files::new();
    let mut request = files.request(&[]);
    request.environment.push(b"=secret".to_vec());
    let error = of(&request, &files.spec()).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn too_much_and_relative_folders_are_refused() {
    let files = Files::new();
    let mut request = files.request(&[]);
    request.working_directory = b"here".to_vec();
    assert!(matches!(
        of(&request, &files.spec()),
        Err(CommandError::WorkingDirectory(_))
    ));
    let mut request = files.request(&[]);
    request.arguments = vec![b"a".to_vec(); MAX_ARGUMENTS + 1];
    assert!(matches!(
        of(&request, &files.spec()),
        Err(CommandError::TooMany { .. })
    ));
    let mut request = files.request(&[]);
    request.environment = vec![b"a=b".to_vec(); MAX_VARIABLES + 1];
    assert!(matches!(
        of(&request, &files.spec()),
        Err(CommandError::TooMany { .. })
    ));
}

#[test]
fn a_class_that_cannot_be_used_starts_nothing() {
    let files = Files::new();
    let refused = of(&files.request(&[]), &proto::ClassSpec::default());
    assert!(matches!(refused, Err(CommandError::Class(_))), "{refused:?}");
    let mut spec = files.spec();
    spec.program.as_mut().unwrap().executable.as_mut().unwrap().sha256 = "abc".to_owned();
    let refused = of(&files.request(&[]), &spec);
    assert!(matches!(refused, Err(CommandError::Class(_))), "{refused:?}");
}

#[test]
fn limits_are_the_classs() {
    let files = Files::new();
    let mut spec = files.spec();
    spec.harden = Some(proto::Harden {
        no_new_privs: true,
        read_paths: vec!["/usr".to_owned()],
        hold_bind: true,
        ..proto::Harden::default()
    });
    let harden = of(&files.request(&[]), &spec).unwrap().harden;
    assert!(harden.no_new_privs);
    assert_eq!(harden.files.unwrap().read, [Path::new("/usr")]);
    assert_eq!(harden.connect, None);
    assert_eq!(harden.bind, Some(Vec::new()));
}

/// The model that a command says, where the class has it said by `argument`.
fn model(argument: &str, fixed: &[&str], extra: &[&str]) -> Result<Option<String>, CommandError> {
    let files = Files::new();
    let mut spec = files.spec();
    spec.model = Some(proto::Model {
        argument: argument.to_owned(),
        allowed: vec!["small-*".to_owned(), "tiny".to_owned()],
    });
    spec.program.as_mut().unwrap().fixed_args = fixed.iter().map(|text| (*text).to_owned()).collect();
    let arguments = [&["python3", "agent.py"], extra].concat();
    of(&files.request(&arguments), &spec).map(|command| command.model)
}

#[test]
fn a_model_that_is_not_said_once_where_the_class_wants_it_is_refused() {
    for extra in [
        &[] as &[&str],
        &["go"],
        &["go", "--model", "tiny"],
        &["--note", "--model=tiny"],
        &["--", "--model", "tiny"],
        &["--model"],
        &["--models", "tiny"],
    ] {
        let refused = model("--model", &[], extra).unwrap_err();
        let missing = CommandError::Model(ModelError::Missing("--model".to_owned()));
        assert_eq!(refused, missing, "{extra:?}");
    }
    for extra in [
        &["--model", "tiny", "--model", "tiny"] as &[&str],
        &["--model=tiny", "--model=small-1"],
        &["--model", "tiny", "--mod", "small-1"],
        &["--model=tiny", "--m=small-1"],
        &["--model=tiny", "go", "--", "--model"],
    ] {
        let refused = model("--model", &[], extra).unwrap_err();
        assert!(
            matches!(refused, CommandError::Model(ModelError::Again { .. })),
            "{extra:?}: {refused}"
        );
    }
    // A short one is taken with its value behind it, and among others.
    for again in ["-m", "-msmall-1", "-vmtiny", "-m=tiny"] {
        let refused = model("-m", &[], &["-m", "tiny", again]).unwrap_err();
        assert!(
            matches!(refused, CommandError::Model(ModelError::Again { .. })),
            "{again}: {refused}"
        );
    }
    // The class's own word is the last one.
    let refused = model("--model", &["--model", "tiny"], &["--model", "small-1"]).unwrap_err();
    assert!(
        matches!(refused, CommandError::Model(ModelError::Again { .. })),
        "{refused}"
    );
}

#[test]
fn a_model_that_is_none_or_not_allowed_is_refused() {
    for name in ["", "--quiet", "-", "a\nb"] {
        let refused = model("--model", &[], &["--model", name]).unwrap_err();
        assert!(
            matches!(refused, CommandError::Model(ModelError::Name(_))),
            "{name:?}: {refused}"
        );
    }
    for name in ["large", "tiny2", "small", "Tiny", "small-*x", "*"] {
        let told = model("--model", &[], &["--model", name]);
        match name {
            "small-*x" => assert_eq!(
                told.unwrap().as_deref(),
                Some(name),
                "it begins as the class says"
            ),
            _ => assert!(
                matches!(told, Err(CommandError::Model(ModelError::NotAllowed { .. }))),
                "{name}: {told:?}"
            ),
        }
    }
}

#[test]
fn a_model_is_known_however_it_is_said() {
    for (argument, fixed, extra) in [
        (
            "--model",
            &[] as &[&str],
            &["--model", "small-1", "go"] as &[&str],
        ),
        ("--model", &[], &["--model=small-1", "--modelling", "-m"]),
        ("--model", &["--quiet", "--model", "small-1"], &["go"]),
        ("--model", &["--model=small-1"], &[]),
        ("-m", &[], &["-m", "small-1", "--more", "-v"]),
    ] {
        let told = model(argument, fixed, extra).unwrap();
        assert_eq!(told.as_deref(), Some("small-1"), "{fixed:?} {extra:?}");
    }
}
