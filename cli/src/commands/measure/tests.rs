//! What a measurement says of folders that are made here, and that what is printed is what is read.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::files::Mutable;
use super::packages::Taken;
use super::*;
use crate::commands::class::MeasuredFile;

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

/// Something that the launcher would start, by this name.
fn program(at: &Path) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, b"\x7fELF and no more").unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
}

fn start(folder: &Path, words: &[&str]) -> Result<Start, CliError> {
    let command: Vec<OsString> = words.iter().map(OsString::from).collect();
    let place = Place { folder, path: None };
    command::resolve(&command, place, &Files::new(None))
}

fn python(folder: &Path, words: &[&str]) -> Result<Python, CliError> {
    let start = start(folder, words)?;
    Ok(Python::of(&start, &Files::new(None))?.expect("it is Python"))
}

fn empty(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

#[test]
fn a_python_is_called_by_its_path_in_an_environment_and_by_its_real_one_elsewhere() {
    let (_folder, at) = folder();
    program(&at.join("base/bin/python3.11"));
    empty(&at.join("a.py"));
    for name in ["env/bin/python", "plain/bin/python"] {
        fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(at.join("base/bin/python3.11"), at.join(name)).unwrap();
    }
    let config = format!("home = {}\nversion = 3.11.2\n", at.join("base/bin").display());
    fs::write(at.join("env/pyvenv.cfg"), config).unwrap();
    let own = start(&at, &["env/bin/python", "a.py", "x"]).unwrap();
    assert_eq!(own.program, at.join("env/bin/python"));
    assert_eq!(own.code, Code::Script(at.join("a.py")));
    assert_eq!(own.fixed, ["x"]);
    let plain = start(&at, &["./plain/bin/python", "./a.py"]).unwrap();
    assert_eq!(plain.program, at.join("base/bin/python3.11"));
    // By another path it is in no environment, whatever a link leads to.
    std::os::unix::fs::symlink(at.join("env/bin/python"), at.join("other")).unwrap();
    let other = start(&at, &["./other", "a.py"]).unwrap();
    assert_eq!(other.program, at.join("base/bin/python3.11"));
}

#[test]
fn a_configuration_of_an_environment_that_cannot_be_read_is_an_error_and_not_no_environment() {
    let (_folder, at) = folder();
    program(&at.join("env/bin/python3.11"));
    empty(&at.join("a.py"));
    let config = at.join("env/pyvenv.cfg");
    let look = || start(&at, &["env/bin/python3.11", "a.py"]).map(|start| start.program);
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(look().unwrap_err().to_string().contains("no regular file"));
    fs::remove_file(&config).unwrap();
    fs::write(&config, "x".repeat(100_000)).unwrap();
    assert!(look().unwrap_err().to_string().contains("bytes"));
    fs::write(&config, "home = relative\n").unwrap();
    assert!(look().unwrap_err().to_string().contains("`relative`"));
    fs::write(&config, "no = home\n").unwrap();
    look().unwrap();
}

#[test]
fn a_first_line_leads_to_its_interpreter_and_what_is_unclear_is_refused() {
    let (_folder, at) = folder();
    program(&at.join("bin/python3.12"));
    let script = |line: &str| {
        program(&at.join("agent"));
        fs::write(at.join("agent"), format!("{line}\nprint()\n")).unwrap();
        let place = Place {
            folder: &at,
            path: Some(OsStr::new("bin")),
        };
        command::resolve(&["./agent".into(), "x".into()], place, &Files::new(None))
    };
    let absolute = format!("#!{}", at.join("bin/python3.12").display());
    for line in ["#!/usr/bin/env python3.12", absolute.as_str()] {
        let found = script(line).unwrap();
        assert_eq!(found.program, at.join("bin/python3.12"));
        assert_eq!(found.code, Code::Script(at.join("agent")));
        assert_eq!(found.fixed, ["x"]);
    }
    for (line, said) in [
        ("#!/usr/bin/env", "`env`"),
        ("#!/usr/bin/env -S python3.12 -u", "`-u`"),
        ("#!/nonexistent/python3", "/nonexistent/python3"),
        ("#!bin/python3.12\r", "control character"),
        ("#! ", "names no interpreter"),
        ("print()", "neither an ELF program nor a script"),
    ] {
        let error = script(line).unwrap_err().to_string();
        assert!(error.contains(said), "{line}: {error}");
    }
    fs::write(at.join("bin/python3.12"), "#!/bin/sh\nexec python\n").unwrap();
    let error = script("#!/usr/bin/env python3.12").unwrap_err().to_string();
    assert!(error.contains("is itself a script"), "{error}");
    let error = start(&at, &["bin/python3.12", "a.py"]).unwrap_err().to_string();
    assert!(error.contains("chooses the interpreter"), "{error}");
}

#[test]
fn modules_are_found_where_python_finds_them() {
    let (_folder, at) = folder();
    program(&at.join("base/bin/python3.11"));
    let library = at.join("base/lib/python3.11");
    let packages = at.join("env/lib/python3.11/site-packages");
    fs::create_dir_all(at.join("env/bin")).unwrap();
    std::os::unix::fs::symlink(at.join("base/bin/python3.11"), at.join("env/bin/python")).unwrap();
    let config = format!("home = {}\n", at.join("base/bin").display());
    fs::write(at.join("env/pyvenv.cfg"), config).unwrap();
    for file in [
        library.join("timeit.py"),
        packages.join("timeit.py"),
        packages.join("agent/__init__.py"),
        packages.join("agent/__main__.py"),
        packages.join("agent/tools/__init__.py"),
        packages.join("agent/tools/run.py"),
        packages.join("bare/deep.py"),
        packages.join("a-1.0.dist-info/RECORD"),
        packages.join("b-1.0.dist-info/METADATA"),
    ] {
        empty(&file);
    }
    let python = python(&at, &["env/bin/python", "-m", "agent"]).unwrap();
    let found = |name: &str| {
        python
            .module(name)
            .map(|module| (module.file, module.inits.len()))
    };
    assert_eq!(found("timeit").unwrap(), (library.join("timeit.py"), 0));
    assert_eq!(found("agent").unwrap(), (packages.join("agent/__main__.py"), 1));
    assert_eq!(
        found("agent.tools.run").unwrap(),
        (packages.join("agent/tools/run.py"), 2)
    );
    assert_eq!(found("bare.deep").unwrap(), (packages.join("bare/deep.py"), 0));
    for (name, said) in [
        ("missing", "--module-file"),
        ("timeit.x", "--module-file"),
        ("agent.tools", "cannot be run"),
        ("agent..x", "not the name"),
        ("../agent", "not the name"),
        ("", "not the name"),
    ] {
        let error = found(name).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    assert_eq!(
        python.records().unwrap(),
        [packages.join("a-1.0.dist-info/RECORD")]
    );
}

#[test]
fn files_that_are_not_what_their_record_says_are_named() {
    let (_folder, at) = folder();
    let site = at.join("site-packages");
    for file in ["a/good.py", "a/bad.so", "a/no_hash.pyc"] {
        empty(&site.join(file));
    }
    fs::write(site.join("a/bad.so"), "other").unwrap();
    let record = site.join("a-1.dist-info/RECORD");
    empty(&record);
    let hash = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
    let rows = ["a/good.py", "a/bad.so", "a/gone.py", "../bin/none"];
    let mut text: String = rows.iter().map(|row| format!("{row},{hash},0\n")).collect();
    text.push_str("a/no_hash.pyc,,\na-1.dist-info/RECORD,,\n");
    fs::write(&record, text).unwrap();
    let check = || installed::check(&record, &mut Files::new(None));
    let altered = check().unwrap();
    let names: Vec<&str> = altered.iter().map(|file| file.path.as_str()).collect();
    let expected = ["a/bad.so", "a/gone.py", "../bin/none"].map(|name| site.join(name).display().to_string());
    assert_eq!(names, expected);
    assert!(altered[0].reason.contains("was changed") && altered[1].reason.contains("cannot be read"));
    fs::write(&record, "a,b\n").unwrap();
    assert!(check().unwrap_err().to_string().contains("three columns"));
}

#[test]
fn locks_of_node_stand_beside_the_nearest_package() {
    let (_folder, at) = folder();
    program(&at.join("bin/node"));
    for file in [
        "app/package.json",
        "app/package-lock.json",
        "app/src/main.js",
        "package-lock.json",
    ] {
        empty(&at.join(file));
    }
    let listed = |script: &str, by| {
        let start = start(&at, &["bin/node", script]).unwrap();
        let mut files = Files::new(None);
        let packages = Packages::of(&start, None).unwrap();
        packages.take(by, &[], &at, &mut files)?;
        Ok::<_, CliError>(
            files
                .done()
                .0
                .into_iter()
                .map(|file| file.path)
                .collect::<Vec<_>>(),
        )
    };
    let lock = at.join("app/package-lock.json").display().to_string();
    assert_eq!(listed("app/src/main.js", None).unwrap(), [lock]);
    assert!(
        listed("app/src/main.js", Some(PackagesBy::None))
            .unwrap()
            .is_empty()
    );
    let error = listed("app/src/main.js", Some(PackagesBy::Both)).unwrap_err();
    assert!(error.to_string().contains("no RECORD"), "{error}");
}

#[test]
fn users_are_names_or_numbers_and_never_root() {
    assert_eq!(account::of("61234:5").unwrap().gid, 5);
    assert_eq!(account::of("61234").unwrap().gid, 61234);
    for bad in ["root", "0", "0:5", "no such user", "1:x", ":", ""] {
        assert!(matches!(account::of(bad), Err(CliError::Invalid(_))), "{bad}");
    }
}

fn view(path: &str, args: &[&str]) -> MeasureView {
    let file = |role: Option<&str>| MeasuredFile {
        path: path.to_owned(),
        sha256: HASH.to_owned(),
        role: role.map(str::to_owned),
    };
    let spec = Measurement {
        program: ProgramFile {
            executable: Some(file(None)),
            module: Some("a.b".to_owned()),
            module_file: Some(file(None)),
            fixed_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..ProgramFile::default()
        },
        files: vec![file(Some("lock")), file(Some("other"))],
        env_allow: Vec::new(),
    };
    let mutable = Mutable {
        path: path.to_owned(),
        writable: path.to_owned(),
        owner_uid: 1,
        owner: None,
    };
    let user = vouchsafe_launch::User {
        uid: 5,
        gid: 6,
        groups: vec![7],
    };
    let argv = args.iter().map(OsString::from).collect();
    let names = vec!["LD_PRELOAD".to_owned()];
    MeasureView::new(spec, argv, names, Some(user), vec![mutable], Taken::default())
}

#[test]
fn what_is_printed_is_read_again_in_either_form() {
    let hostile = [
        "",
        "\"",
        "\\",
        "'''",
        "#",
        "a\nb = 1",
        "\u{7f}\u{85}",
        "\u{1}",
        "ü\u{202e}",
        "[files]",
    ];
    for path in ["/opt/a b", "/opt/\"x\\y\"'''", "/opt/#ü"] {
        let view = view(path, &hostile);
        let json = serde_json::to_string(&view).unwrap();
        let (toml, json) = (Measurement::parse(&view.toml()), Measurement::parse(&json));
        let wire = |measurement: Measurement| {
            let mut spec = ClassSpec::default();
            measurement.onto(&mut spec).unwrap();
            spec
        };
        let (toml, json) = (wire(toml.unwrap()), wire(json.unwrap()));
        assert_eq!(toml, json);
        let program = toml.program.unwrap();
        assert_eq!(program.fixed_args, hostile);
        assert_eq!(program.executable.unwrap().path, path);
        assert_eq!(toml.files.len(), 2);
        // Nothing of what was found lets a variable through by itself.
        assert!(toml.env_allow.is_empty());
    }
}

#[test]
fn a_measurement_that_says_more_than_was_measured_is_refused() {
    let text = view("/opt/a", &[]).toml();
    let more = format!("any_node = true\n{text}");
    assert!(Measurement::parse(&more).unwrap_err().contains("--file"));
    for bad in ["", "{}", "{\"spec\": 1}", "[program]\nexecutable = 5\n", "\u{0}"] {
        assert!(Measurement::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_measurement_takes_the_place_of_program_and_files_and_leaves_the_rest() {
    let measurement = Measurement::parse(&view("/opt/a", &["x"]).toml()).unwrap();
    let mut spec = ClassSpec {
        max_runs: 7,
        env_allow: vec!["PYTHONPATH".to_owned()],
        ..ClassSpec::default()
    };
    spec.program.get_or_insert_default().extra_args = true;
    spec.files
        .push(vouchsafe_proto::vouchsafe::run::v1::MeasuredFile::default());
    measurement.onto(&mut spec).unwrap();
    assert_eq!((spec.max_runs, spec.env_allow.len(), spec.files.len()), (7, 1, 2));
    let program = spec.program.unwrap();
    assert!(program.extra_args);
    assert_eq!(program.module, "a.b");
}
