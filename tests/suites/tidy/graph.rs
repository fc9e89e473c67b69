//! Rules about dependencies: which room may use which, what the rooms without IO may use, which crates have
//! one version in the whole build and which are not in it at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::rust::PURE_ROOMS;
use crate::tree::Finding;

/// What each package of the workspace may use of the others, in tests too. The daemons share only what stands
/// above them here, and never each other; only the command line links both.
const ROOMS: [(&str, &[&str]); 15] = [
    ("proto", &[]),
    ("sys", &[]),
    ("identity", &[]),
    ("policy", &["identity"]),
    ("audit", &["identity"]),
    ("attestors", &["identity", "sys"]),
    ("node-attestors", &["attestors", "identity", "sys"]),
    ("workload-attestors", &["attestors", "identity", "sys"]),
    ("runtime", &["identity", "sys"]),
    ("launch", &["sys"]),
    ("store", &["attestors", "audit", "identity", "policy"]),
    ("ca", &["audit", "identity", "runtime", "store"]),
    (
        "server",
        &[
            "proto",
            "identity",
            "attestors",
            "node-attestors",
            "audit",
            "policy",
            "runtime",
            "sys",
            "store",
            "ca",
        ],
    ),
    (
        "agent",
        &[
            "proto",
            "identity",
            "attestors",
            "node-attestors",
            "workload-attestors",
            "audit",
            "policy",
            "runtime",
            "sys",
            "launch",
        ],
    ),
    (
        "cli",
        &[
            "proto",
            "identity",
            "runtime",
            "server",
            "agent",
            "launch",
            "attestors",
            "workload-attestors",
        ],
    ),
];

/// The packages that may use everything, and that nobody may use.
const OUTSIDE: [&str; 2] = ["tests", "bench"];

/// Every crate that a room without IO may use: values, encodings, cryptography.
const PURE_CRATES: [&str; 16] = [
    "aws-lc-rs",
    "base64",
    "hex",
    "jsonwebtoken",
    "pem",
    "rcgen",
    "rustls-pki-types",
    "rustls-webpki",
    "serde",
    "serde_json",
    "thiserror",
    "time",
    "ulid",
    "uuid",
    "x509-parser",
    "zeroize",
];

/// Crates whose types cross our rooms, or that are dear to build: a second version is a mistake.
const ONE_VERSION: [&str; 12] = [
    "aws-lc-rs",
    "http",
    "hyper",
    "prost",
    "rustls",
    "rustls-webpki",
    "thiserror",
    "time",
    "tokio",
    "tokio-rustls",
    "tonic",
    "tower",
];

/// Crates that must not be in the build: a second cryptography, a second TLS, and one with an open advisory.
pub(crate) const UNWANTED: [&str; 6] = [
    "native-tls",
    "openssl",
    "openssl-sys",
    "ring",
    "rsa",
    "rust_crypto",
];

/// A package of the workspace: the names of what it uses.
#[derive(Debug, Default)]
struct Package {
    normal: BTreeSet<String>,
    /// Used by its tests or its build script only.
    other: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By name without the prefix that all packages share.
    rooms: BTreeMap<String, Package>,
    /// Every package that is built, with its versions.
    built: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// As cargo resolves it for Linux, with the features that we use.
    pub(crate) fn of_workspace(top: &Path) -> anyhow::Result<Self> {
        let mut command = MetadataCommand::new();
        command.manifest_path(top.join("Cargo.toml")).no_deps();
        let metadata = command.exec()?;
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            let mut uses = Package::default();
            for dependency in &package.dependencies {
                let normal = dependency.kind == DependencyKind::Normal;
                let into = if normal { &mut uses.normal } else { &mut uses.other };
                into.insert(room(&dependency.name));
            }
            graph.rooms.insert(room(&package.name), uses);
        }
        graph.built = built(&cargo_tree(top)?);
        ensure!(
            graph.built.len() > 50,
            "cargo resolved only {} packages",
            graph.built.len()
        );
        Ok(graph)
    }
}

impl Graph {
    /// Whether this version of a crate is built.
    pub(crate) fn builds(&self, name: &str, version: &str) -> bool {
        let versions = self.built.get(name);
        versions.is_some_and(|versions| versions.contains(&format!("v{version}")))
    }
}

/// What cargo would build on Linux with the features that we use. (Its metadata names crates too that only a
/// feature nobody asks for would bring.)
fn cargo_tree(top: &Path) -> anyhow::Result<String> {
    let arguments = "tree --workspace --locked --target x86_64-unknown-linux-gnu --prefix none --format {p}";
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .current_dir(top)
        .args(arguments.split(' '))
        .output();
    let output = output.context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Names and versions from lines such as `tokio v1.54.1 (*)`.
fn built(lines: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut built: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            built
                .entry(name.to_owned())
                .or_default()
                .insert(version.to_owned());
        }
    }
    built
}

fn room(package: &str) -> String {
    package.strip_prefix("vouchsafe-").unwrap_or(package).to_owned()
}

/// Each package uses only the rooms that it may.
pub(crate) fn rooms(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, package) in graph
        .rooms
        .iter()
        .filter(|(name, _)| !OUTSIDE.contains(&name.as_str()))
    {
        let Some((_, may)) = ROOMS.iter().find(|(room, _)| room == name) else {
            findings.push(Finding::of(
                name,
                "is not in the list of rooms: say what it may use",
            ));
            continue;
        };
        let ours = package
            .normal
            .union(&package.other)
            .filter(|other| graph.rooms.contains_key(*other));
        let wrong = ours.filter(|other| !may.contains(&other.as_str()));
        findings.extend(wrong.map(|other| Finding::of(name, format!("must not depend on `{other}`"))));
    }
    findings
}

/// The rooms without IO use only crates without IO.
pub(crate) fn pure_rooms(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, package) in graph
        .rooms
        .iter()
        .filter(|(name, _)| PURE_ROOMS.contains(&name.as_str()))
    {
        let theirs = package
            .normal
            .iter()
            .filter(|other| !graph.rooms.contains_key(*other));
        let wrong = theirs.filter(|other| !PURE_CRATES.contains(&other.as_str()));
        findings
            .extend(wrong.map(|other| Finding::of(name, format!("`{other}` is not listed as free of IO"))));
    }
    findings
}

/// Shared crates have one version.
pub(crate) fn one_version(graph: &Graph) -> Vec<Finding> {
    let shared = graph
        .built
        .iter()
        .filter(|(name, _)| ONE_VERSION.contains(&name.as_str()));
    let several = shared.filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| Finding::of(name, format!("is built in versions {versions:?}")))
        .collect()
}

/// Some crates are not in the build.
pub(crate) fn unwanted(graph: &Graph) -> Vec<Finding> {
    let there = UNWANTED.iter().filter(|name| graph.built.contains_key(**name));
    there
        .map(|name| {
            Finding::of(
                *name,
                "must not be in the build: `cargo tree -i` shows who wants it",
            )
        })
        .collect()
}

#[cfg(test)]
mod bites {
    use super::*;

    fn graph(rooms: &[(&str, &[&str], &[&str])]) -> Graph {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let package = |normal, other| Package {
            normal: set(normal),
            other: set(other),
        };
        let rooms = rooms
            .iter()
            .map(|(name, normal, other)| (name.to_string(), package(normal, other)));
        Graph {
            rooms: rooms.collect(),
            built: BTreeMap::new(),
        }
    }

    #[test]
    fn a_daemon_that_depends_on_the_other() {
        let findings = rooms(&graph(&[("agent", &["server"], &[]), ("server", &[], &[])]));
        assert_eq!(findings, [Finding::of("agent", "must not depend on `server`")]);
    }

    #[test]
    fn a_daemon_whose_tests_depend_on_the_other() {
        let findings = rooms(&graph(&[("agent", &[], &[]), ("server", &[], &["agent"])]));
        assert_eq!(findings, [Finding::of("server", "must not depend on `agent`")]);
    }

    #[test]
    fn a_command_line_that_reads_the_store() {
        let findings = rooms(&graph(&[("cli", &["store"], &[]), ("store", &[], &[])]));
        assert_eq!(findings, [Finding::of("cli", "must not depend on `store`")]);
    }

    #[test]
    fn a_room_that_nobody_knows() {
        assert_eq!(rooms(&graph(&[("attic", &[], &[])])).len(), 1);
    }

    #[test]
    fn a_runtime_in_a_room_without_io() {
        let findings = pure_rooms(&graph(&[("identity", &["tokio", "serde"], &["tempfile"])]));
        assert_eq!(
            findings,
            [Finding::of("identity", "`tokio` is not listed as free of IO")]
        );
    }

    #[test]
    fn a_second_version_and_an_unwanted_crate() {
        let lines = "a v1.0.0 (b)\ntonic v0.13.0\ntonic v0.14.9\ntonic v0.14.9 (*)\n\nsyn v2.0.0\nsyn v3.0.0\nring v0.17.14\n";
        let graph = Graph {
            rooms: BTreeMap::new(),
            built: built(lines),
        };
        assert_eq!(one_version(&graph).len(), 1);
        assert_eq!(unwanted(&graph).len(), 1);
    }
}
