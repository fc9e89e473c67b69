//! Licences, sources, bans and duplicate versions, as deny.toml has them, checked without cargo-deny: so that every run of
//! the checks sees them, also where that tool cannot be installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use cargo_metadata::MetadataCommand;
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::graph::{Graph, UNWANTED};
use crate::tree::Finding;

/// The part of deny.toml that is kept here.
#[derive(Debug, Deserialize)]
pub(crate) struct Rules {
    licenses: Licences,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

/// A crate, or one version of it, and why it stands there.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// A crate of others that is built.
#[derive(Debug, Clone)]
struct Foreign {
    name: String,
    version: String,
    licence: Option<String>,
    /// The registry that cargo has by itself, or another place.
    usual: bool,
}

/// The rules, and what they are about.
#[derive(Debug)]
pub(crate) struct Dependencies {
    rules: Rules,
    crates: Vec<Foreign>,
}

impl Dependencies {
    /// Of this repository.
    pub(crate) fn of_workspace(top: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(top.join("deny.toml")).context("deny.toml")?;
        let graph = Graph::of_workspace(top)?;
        let mut command = MetadataCommand::new();
        command.manifest_path(top.join("Cargo.toml"));
        let options = ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
        command.other_options(options.map(str::to_owned));
        let packages = command.exec()?.packages;
        let crates = packages.into_iter().filter_map(|package| {
            let usual = package.source?.is_crates_io();
            let (name, version) = (package.name.to_string(), package.version.to_string());
            graph.builds(&name, &version).then_some(Foreign {
                name,
                version,
                licence: package.license,
                usual,
            })
        });
        Ok(Self {
            rules: toml::from_str(&text)?,
            crates: crates.collect(),
        })
    }
}

/// Each crate can be had under a licence that is allowed.
pub(crate) fn licences(all: &Dependencies) -> Vec<Finding> {
    let allowed = &all.rules.licenses.allow;
    let refused = |one: &&Foreign| {
        let text = one.licence.as_deref().unwrap_or_default();
        let parsed = Expression::parse_mode(text, ParseMode::LAX);
        !parsed.is_ok_and(|expression| expression.evaluate(|asked| allowed.contains(&asked.to_string())))
    };
    let found = all.crates.iter().filter(refused);
    found
        .map(|one| {
            Finding::of(
                &one.name,
                format!("has licence {:?}, which deny.toml does not allow", one.licence),
            )
        })
        .collect()
}

/// Each crate comes from cargo's own registry, as deny.toml has it by leaving others unknown.
pub(crate) fn sources(all: &Dependencies) -> Vec<Finding> {
    let found = all.crates.iter().filter(|one| !one.usual);
    found
        .map(|one| Finding::of(&one.name, "comes from another place than cargo's own registry"))
        .collect()
}

/// Each crate has one version but for those that are excused, and each excuse is needed.
pub(crate) fn duplicates(all: &Dependencies) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in &all.crates {
        versions.entry(&one.name).or_default().insert(&one.version);
    }
    let excused: BTreeSet<(&str, &str)> = all
        .rules
        .bans
        .skip
        .iter()
        .filter_map(|skip| skip.name.split_once('@'))
        .collect();
    let several = versions.iter().filter_map(|(name, versions)| {
        let left = versions
            .iter()
            .filter(|version| !excused.contains(&(*name, **version)));
        (left.count() > 1).then(|| Finding::of(*name, format!("is built in versions {versions:?}")))
    });
    let idle = excused.iter().filter(|(name, version)| {
        !versions
            .get(name)
            .is_some_and(|versions| versions.len() > 1 && versions.contains(version))
    });
    let idle = idle.map(|(name, _)| Finding::of(*name, "is excused in deny.toml without need"));
    several.chain(idle).collect()
}

/// What stands in deny.toml has a reason, and bans what the other rules here ban.
pub(crate) fn reasons(all: &Dependencies) -> Vec<Finding> {
    let Bans { deny, skip } = &all.rules.bans;
    let without = deny
        .iter()
        .chain(skip)
        .filter(|named| named.reason.trim().is_empty());
    let mut findings: Vec<Finding> = without
        .map(|named| Finding::of(&named.name, "stands in deny.toml without a reason"))
        .collect();
    let banned: BTreeSet<&str> = deny.iter().map(|named| named.name.as_str()).collect();
    if banned != UNWANTED.into_iter().collect() {
        findings.push(Finding::of(
            "deny.toml",
            "bans other crates than the tidy suite does",
        ));
    }
    findings
}

#[cfg(test)]
mod bites {
    use super::*;

    fn of(crates: &[(&str, &str, &str, bool)], skip: &[&str]) -> Dependencies {
        let named = |name: &&str| Named {
            name: (*name).to_owned(),
            reason: String::new(),
        };
        let crates = crates.iter().map(|(name, version, licence, usual)| Foreign {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            licence: Some((*licence).to_owned()),
            usual: *usual,
        });
        Dependencies {
            rules: Rules {
                licenses: Licences {
                    allow: ["MIT".to_owned()].into(),
                },
                bans: Bans {
                    deny: Vec::new(),
                    skip: skip.iter().map(named).collect(),
                },
            },
            crates: crates.collect(),
        }
    }

    #[test]
    fn a_licence_that_is_not_allowed() {
        let all = of(
            &[
                ("a", "1.0.0", "MIT/Apache-2.0", true),
                ("b", "1.0.0", "GPL-3.0-only", true),
                ("c", "1.0.0", "MIT AND GPL-3.0-only", true),
                ("d", "1.0.0", "", true),
            ],
            &[],
        );
        assert_eq!(licences(&all).len(), 3);
    }

    #[test]
    fn a_foreign_registry() {
        assert_eq!(sources(&of(&[("a", "1.0.0", "MIT", false)], &[])).len(), 1);
    }

    #[test]
    fn a_second_version_and_an_excuse_that_nobody_needs() {
        let two = [("a", "1.0.0", "MIT", true), ("a", "2.0.0", "MIT", true)];
        assert_eq!(duplicates(&of(&two, &[])).len(), 1);
        assert_eq!(duplicates(&of(&two, &["a@1.0.0"])).len(), 0);
        assert_eq!(duplicates(&of(&two[..1], &["a@1.0.0"])).len(), 1);
        assert_eq!(reasons(&of(&two, &["a@1.0.0"])).len(), 2);
    }
}
