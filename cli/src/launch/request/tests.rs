//! What is asked, and what is refused before anybody is asked.

use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches};

use super::*;

fn args(words: &[OsString]) -> Result<LaunchArgs, clap::Error> {
    let command = LaunchArgs::augment_args(Command::new("run").no_binary_name(true));
    LaunchArgs::from_arg_matches(&command.try_get_matches_from(words)?)
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn asked(words: &[OsString], environment: &[(OsString, OsString)]) -> Result<LaunchRequest, CliError> {
    let args = args(words).unwrap();
    of(&args, environment.iter().cloned(), Path::new("/here"), false)
}

#[test]
fn a_command_line_without_class_command_or_right_labels_is_wrong_usage() {
    let cases: [&[&str]; 9] = [
        &[],
        &["--class", "a"],
        &["--class", "a", "--"],
        &["--", "true"],
        &["--class", "Not A Class", "--", "true"],
        &["--class", "a", "--task", "no blanks", "--", "true"],
        &["--class", "a", "--label", "novalue", "--", "true"],
        &["--class", "a", "--label", "UPPER=x", "--", "true"],
        &["--class", "a", "--label", "a=\u{7}", "--", "true"],
    ];
    for case in cases {
        assert!(args(&words(case)).is_err(), "{case:?}");
    }
}

#[test]
fn labels_are_not_given_twice_nor_without_end() {
    let twice = words(&["--class", "a", "--label", "k=1", "--label", "k=2", "--", "true"]);
    let error = asked(&twice, &[]).unwrap_err();
    assert!(error.to_string().contains("`k` is given twice"), "{error}");
    let mut many = words(&["--class", "a"]);
    for n in 0..17 {
        many.extend(words(&["--label", &format!("k{n}=v")]));
    }
    many.extend(words(&["--", "true"]));
    assert_eq!(asked(&many, &[]).unwrap_err().exit_code(), 65);
}

#[test]
fn a_nul_byte_is_refused_before_anybody_is_asked() {
    let error = asked(&words(&["--class", "a", "--", "true", "a\0b"]), &[]).unwrap_err();
    assert!(error.to_string().contains("NUL"), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn arguments_and_variables_that_are_no_text_pass_as_they_are() {
    let odd = OsString::from_vec(vec![b'a', 0xff, b'=', 0xfe]);
    let mut line = words(&["--class", "a", "--", "true"]);
    line.push(odd.clone());
    line.extend(words(&["--class", "--", ""]));
    let variables = [
        (OsString::from("ODD"), odd.clone()),
        (OsString::from("NONE"), OsString::new()),
    ];
    let request = asked(&line, &variables).unwrap();
    let odd = odd.into_vec();
    let given: Vec<&[u8]> = request.arguments.iter().map(Vec::as_slice).collect();
    assert_eq!(given, [b"true".as_slice(), &odd, b"--class", b"--", b""]);
    let variable = [b"ODD=".as_slice(), &odd].concat();
    assert_eq!(request.environment, [variable, b"NONE=".to_vec()]);
    assert_eq!(request.working_directory, b"/here");
    assert!(!request.detached && !request.terminal);
}

#[test]
fn a_command_that_is_not_there_and_one_that_cannot_be_executed_have_a_shells_codes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("plain"), "").unwrap();
    std::fs::write(at("program"), "").unwrap();
    std::fs::set_permissions(at("program"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    let path = std::env::join_paths([PathBuf::from("/nonexistent"), folder.path().to_owned()]).unwrap();
    let code = |name: &str, path: Option<&OsStr>| {
        let outcome = find(&[OsString::from(name)], path, folder.path());
        outcome.err().map(|error| error.exit_code())
    };
    for name in ["", "nothing", "./nothing", "/nonexistent/x", "plain/below"] {
        assert_eq!(code(name, Some(&path)), Some(127), "{name}");
    }
    for name in ["plain", "./plain", "folder", "./folder"] {
        assert_eq!(code(name, Some(&path)), Some(126), "{name}");
    }
    assert_eq!(code("program", None), Some(127), "no PATH");
    for name in ["program", "./program"] {
        assert_eq!(code(name, Some(&path)), None, "{name}");
    }
}
