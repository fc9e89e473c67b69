//! The fuzz targets: what one of them checks that needs both daemons' crates, over random input; that each one's logic
//! runs in a test as well; and that the tool which runs them says what it lacks.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "../fuzz/invariants/messages.rs"]
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use prost::Message;
use vouchsafe_proto::spire::api::types;
use vouchsafe_tests::repository;

proptest! {
    #[test]
    fn messages_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        messages::check(&bytes);
    }

    #[test]
    fn messages_entries(
        id in ".{0,9}",
        trust_domain in "[a-z.]{0,9}",
        path in "(/[a-z.]{0,3}){0,3}",
        selector in ("[a-z:]{0,3}", ".{0,3}"),
        expires_at in any::<i64>(),
    ) {
        let entry = types::Entry {
            id,
            spiffe_id: Some(types::Spiffeid { trust_domain, path }),
            selectors: vec![types::Selector { r#type: selector.0, value: selector.1 }],
            expires_at,
            ..types::Entry::default()
        };
        messages::check(&entry.encode_to_vec());
    }
}

#[test]
fn messages_that_broke_it_once() {
    // A bundle's JWT authority without a key id.
    let found = ["IAoaAAoBLkAK"];
    for message in found {
        messages::check(&STANDARD.decode(message).unwrap());
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path in the `#[path = "…"]` of a target, from the repository on.
fn logic(target: &str) -> PathBuf {
    let text = read(
        &repository()
            .join("tests/fuzz/fuzz_targets")
            .join(format!("{target}.rs")),
    );
    let path = text
        .split_once("#[path = \"")
        .and_then(|(_, rest)| rest.split_once('"'));
    let (path, _) = path.unwrap_or_else(|| panic!("`{target}` has its logic in itself"));
    let folder = repository().join("tests/fuzz/fuzz_targets");
    let whole = folder.join(path).canonicalize().expect("the logic is there");
    whole
        .strip_prefix(repository().canonicalize().unwrap())
        .unwrap()
        .to_owned()
}

#[test]
fn each_target_has_its_logic_in_a_test_as_well() {
    let manifest = read(&repository().join("tests/fuzz/Cargo.toml"));
    let targets: Vec<&str> = manifest
        .split("[[bin]]\nname = \"")
        .skip(1)
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name)
        .collect();
    assert!(targets.len() >= 15, "{targets:?}");
    let folders = [
        "agent/tests",
        "server/tests",
        "runtime/tests",
        "identity/tests",
        "attestors/node/tests",
        "attestors/workload/tests",
        "tests/suites",
    ];
    let sources = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(repository().join(folder)).expect("a folder"));
    let sources: Vec<String> = sources
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| read(&path))
        .collect();
    for target in targets {
        let path = logic(target);
        let end = format!("invariants/{}\"]", path.file_name().unwrap().to_str().unwrap());
        assert!(
            sources.iter().any(|source| source.contains(&end)),
            "no test runs the logic of `{target}`, {}",
            path.display()
        );
    }
}

#[test]
fn the_tool_says_what_it_lacks() {
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let run = |arguments: &[&str]| {
        let mut tool = Command::new(python.expect("a system Python"));
        let nothing = tempfile::tempdir().unwrap();
        tool.arg(repository().join("tools/fuzz"))
            .args(arguments)
            .env("PATH", nothing.path());
        let done = tool.output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, text) = run(&["1"]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("cargo install cargo-fuzz"), "{text}");
    let (code, text) = run(&["1", "frams"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("`frams`") && text.contains("frames"), "{text}");
}

/// The main build does not see the targets' lock, so nothing else would renew it when a crate uses another.
#[test]
fn the_lock_of_the_targets_knows_what_our_crates_use() {
    let lock: toml::Table = read(&repository().join("tests/fuzz/Cargo.lock")).parse().unwrap();
    let locked: BTreeMap<&str, BTreeSet<&str>> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let uses = package.get("dependencies").and_then(toml::Value::as_array);
            // `name`, or `name version` where there are several.
            let uses = uses
                .into_iter()
                .flatten()
                .filter_map(|one| one.as_str()?.split(' ').next());
            (package["name"].as_str().unwrap(), uses.collect())
        })
        .collect();
    let mut command = cargo_metadata::MetadataCommand::new();
    command.manifest_path(repository().join("Cargo.toml")).no_deps();
    let mut checked = 0;
    for package in command.exec().unwrap().packages {
        let Some(uses) = locked.get(package.name.as_str()) else {
            continue;
        };
        checked += 1;
        let wanted = package.dependencies.iter().filter(|dependency| {
            dependency.kind != cargo_metadata::DependencyKind::Development && !dependency.optional
        });
        for dependency in wanted {
            assert!(
                uses.contains(dependency.name.as_str()),
                "tests/fuzz/Cargo.lock does not know that `{}` uses `{}`: renew it with \
                 `cargo metadata --manifest-path tests/fuzz/Cargo.toml`",
                package.name,
                dependency.name
            );
        }
    }
    assert!(checked >= 10, "{checked}");
}
