//! The table's form, and what it must keep: ids by standard and clause, a demand, who is bound by it, and tests
//! or a reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Sources;
use crate::standards::Standard;

/// What is wrong, with the place.
pub(crate) type Finding = String;

/// The heading of each table.
const HEADING: &str = "| id | demand | who | shown by |";
/// Who can be bound by a demand.
const BOUND: [&str; 5] = ["server", "agent", "CLI", "clients", "standards"];
/// A test that shows more rows than this shows none of them well.
const MAX_ROWS_OF_A_TEST: usize = 5;
/// Shorter texts say nothing.
const MIN_TEXT: usize = 15;

/// What shows that a demand is met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Tests, each with the path of its file and its function.
    Tests(Vec<(String, String)>),
    /// It is not met, for this reason.
    NotYet(String),
    /// It binds others.
    NotOurs(String),
}

/// One demand of a standard.
#[derive(Debug)]
pub(crate) struct Row {
    /// The prefix of its standard.
    pub(crate) prefix: String,
    /// The clause that it stands in.
    pub(crate) clause: String,
    /// The letter that tells it from others of its clause.
    letter: char,
    demand: String,
    who: Vec<String>,
    /// What shows it.
    pub(crate) proof: Proof,
}

impl Row {
    fn id(&self) -> String {
        format!("{}-{}-{}", self.prefix, self.clause, self.letter)
    }
}

/// A section of the page: one standard.
#[derive(Debug)]
struct Section {
    heading: String,
    rows: Vec<Row>,
}

/// The page.
#[derive(Debug)]
pub(crate) struct Table {
    sections: Vec<Section>,
}

impl Table {
    /// Reads the page: a `##` heading for each standard, with its table below.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Finding>> {
        let mut sections: Vec<Section> = Vec::new();
        let mut findings = Vec::new();
        let mut in_table = false;
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(heading) = line.strip_prefix("## ") {
                let heading = heading.to_owned();
                sections.push(Section {
                    heading,
                    rows: Vec::new(),
                });
            }
            if !line.starts_with('|') {
                in_table = false;
            } else if line == HEADING {
                in_table = true;
            } else if !in_table {
                findings.push(format!("line {number}: a table must begin with `{HEADING}`"));
            } else if !line.starts_with("|-") {
                match (parse_row(line), sections.last_mut()) {
                    (Ok(row), Some(section)) => section.rows.push(row),
                    (Ok(_), None) => findings.push(format!("line {number}: a row before the first heading")),
                    (Err(fault), _) => findings.push(format!("line {number}: {fault}")),
                }
            }
        }
        if findings.is_empty() {
            Ok(Self { sections })
        } else {
            Err(findings)
        }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|section| &section.rows)
    }

    /// Each test with the row that names it.
    pub(crate) fn tests(&self) -> impl Iterator<Item = (&Row, &(String, String))> {
        self.rows().flat_map(|row| match &row.proof {
            Proof::Tests(tests) => tests.iter().map(move |test| (row, test)).collect(),
            Proof::NotYet(_) | Proof::NotOurs(_) => Vec::new(),
        })
    }

    /// Each standard has its section at its revision, and each clause as many rows as demands, lettered from `a`.
    pub(crate) fn check_clauses(&self, standards: &[Standard]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for section in &self.sections {
            let named = |standard: &&Standard| section.heading.contains(standard.file);
            if !section.rows.is_empty() && !standards.iter().any(|standard| named(&standard)) {
                findings.push(format!("no known standard: `{}`", section.heading));
            }
        }
        for standard in standards {
            let named = |section: &&Section| section.heading.contains(standard.file);
            match self.sections.iter().find(named) {
                Some(section) => findings.extend(check_section(section, standard)),
                None => findings.push(format!("no section for {}", standard.file)),
            }
        }
        findings
    }

    /// Ids are unique, texts say something and differ, those who are bound are known.
    pub(crate) fn check_rows(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let (mut ids, mut demands) = (BTreeSet::new(), BTreeSet::new());
        for row in self.rows() {
            let id = row.id();
            if row.demand.chars().count() < MIN_TEXT {
                findings.push(format!("{id}: the demand says too little"));
            }
            if !demands.insert(format!("{} {}", row.prefix, row.demand.to_lowercase())) {
                findings.push(format!("{id}: another row says the same"));
            }
            if row.who.iter().any(|who| !BOUND.contains(&who.as_str())) {
                findings.push(format!("{id}: who is bound must be of {BOUND:?}"));
            }
            if let Proof::NotYet(reason) | Proof::NotOurs(reason) = &row.proof
                && reason.chars().count() < MIN_TEXT
            {
                findings.push(format!("{id}: the reason says too little"));
            }
            if let Proof::NotOurs(_) = &row.proof
                && row.who.iter().any(|who| who != "clients" && who != "standards")
            {
                findings.push(format!(
                    "{id}: it binds the {}, so it is ours",
                    row.who.join(", ")
                ));
            }
            if !ids.insert(id.clone()) {
                findings.push(format!("{id}: stands twice"));
            }
        }
        findings
    }

    /// Each test is there and runs, stands once in its row, and does not stand for everything.
    pub(crate) fn check_tests(&self, sources: &Sources) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut rows_of: BTreeMap<&(String, String), Vec<String>> = BTreeMap::new();
        for (row, test) in self.tests() {
            let rows = rows_of.entry(test).or_default();
            if rows.contains(&row.id()) {
                findings.push(format!("{}: `{}` stands twice", row.id(), test.1));
            }
            rows.push(row.id());
        }
        for (test, rows) in rows_of {
            if let Some(fault) = sources.fault(&test.0, &test.1) {
                findings.push(format!("{}: {fault}", rows.join(", ")));
            }
            if rows.len() > MAX_ROWS_OF_A_TEST {
                findings.push(format!(
                    "`{}` is said to show {} rows: {}",
                    test.1,
                    rows.len(),
                    rows.join(", ")
                ));
            }
        }
        findings
    }
}

fn check_section(section: &Section, standard: &Standard) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !section.heading.contains(standard.revision) {
        findings.push(format!(
            "`{}` should name revision {}",
            section.heading, standard.revision
        ));
    }
    for row in &section.rows {
        let known = standard.clauses.iter().any(|(clause, _)| *clause == row.clause);
        if row.prefix != standard.prefix || !known {
            findings.push(format!(
                "{}: {} has no such clause with a demand",
                row.id(),
                standard.file
            ));
        }
    }
    for (clause, demands) in standard.clauses {
        let letters: String = section
            .rows
            .iter()
            .filter(|row| row.clause == *clause)
            .map(|row| row.letter)
            .collect();
        if letters.len() < *demands {
            let (file, rows) = (standard.file, letters.len());
            findings.push(format!(
                "{file} §{clause} has {demands} demands, and the table {rows} rows"
            ));
        }
        if !('a'..='z')
            .zip(letters.chars())
            .all(|(expected, found)| expected == found)
        {
            let prefix = standard.prefix;
            findings.push(format!(
                "{prefix}-{clause}: letters should go up from `a`, not `{letters}`"
            ));
        }
    }
    findings
}

fn parse_row(line: &str) -> Result<Row, String> {
    let inner = line
        .strip_prefix('|')
        .and_then(|rest| rest.strip_suffix('|'))
        .ok_or("a row begins and ends with `|`")?;
    let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
    let [id, demand, who, proof] = cells.as_slice() else {
        return Err(format!("a row has 4 cells, not {}", cells.len()));
    };
    let (prefix, clause, letter) = parse_id(id)
        .ok_or_else(|| format!("`{id}` is no id: standard, clause and letter, as in `X509-SVID-4.1-a`"))?;
    Ok(Row {
        prefix,
        clause,
        letter,
        demand: (*demand).to_owned(),
        who: who.split(", ").map(ToOwned::to_owned).collect(),
        proof: parse_proof(proof).map_err(|fault| format!("{id}: {fault}"))?,
    })
}

fn parse_id(id: &str) -> Option<(String, String, char)> {
    let (rest, letter) = id.rsplit_once('-')?;
    let (prefix, clause) = rest.rsplit_once('-')?;
    let number =
        |part: &str| !part.is_empty() && !part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
    let mut letters = letter.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None)
            if letter.is_ascii_lowercase() && clause.split('.').all(number) && !prefix.is_empty() =>
        {
            Some((prefix.to_owned(), clause.to_owned(), letter))
        }
        _ => None,
    }
}

fn parse_proof(cell: &str) -> Result<Proof, String> {
    if let Some(reason) = cell.strip_prefix("not yet: ") {
        return Ok(Proof::NotYet(reason.to_owned()));
    }
    if let Some(reason) = cell.strip_prefix("not ours: ") {
        return Ok(Proof::NotOurs(reason.to_owned()));
    }
    let tests = cell.split(", ").map(|one| {
        one.strip_prefix('`')
            .and_then(|rest| rest.strip_suffix('`'))
            .and_then(|name| name.rsplit_once("::"))
            .map(|(path, function)| (path.to_owned(), function.to_owned()))
            .ok_or_else(|| format!("`{one}` is neither `path.rs::test` in backticks nor a reason"))
    });
    tests.collect::<Result<_, _>>().map(Proof::Tests)
}

#[cfg(test)]
mod bites {
    use super::*;

    const STANDARD: &[Standard] = &[Standard {
        prefix: "MADE-UP",
        file: "made-up.md",
        revision: "abc1234",
        clauses: &[("1", 1), ("2.1", 2)],
    }];

    const GOOD: [&str; 3] = [
        "| MADE-UP-1-a | doors are shut at night | agent | `a/tests.rs::shut` |",
        "| MADE-UP-2.1-a | windows are shut at night | server, CLI | not yet: there are no windows |",
        "| MADE-UP-2.1-b | guests shut their own doors | clients | not ours: we are not a guest |",
    ];

    fn page(rows: &[&str]) -> Result<Table, Vec<Finding>> {
        let heading = "# Page\n\n## Made up (made-up.md, abc1234)\n";
        Table::parse(&format!(
            "{heading}\n{HEADING}\n|---|---|---|---|\n{}\n",
            rows.join("\n")
        ))
    }

    /// What is said of the good page when one row is replaced.
    fn said(at: usize, row: &str) -> String {
        let mut rows = GOOD;
        rows[at] = row;
        let table = page(&rows).unwrap();
        [table.check_clauses(STANDARD), table.check_rows()]
            .concat()
            .join("\n")
    }

    #[test]
    fn a_good_page_passes() {
        let table = page(&GOOD).unwrap();
        assert_eq!(table.check_clauses(STANDARD), Vec::<Finding>::new());
        assert_eq!(table.check_rows(), Vec::<Finding>::new());
        assert_eq!(table.rows().count(), 3);
        let tests: Vec<_> = table.tests().map(|(_, test)| test.clone()).collect();
        assert_eq!(tests, [("a/tests.rs".to_owned(), "shut".to_owned())]);
    }

    #[test]
    fn rows_of_another_form_are_refused() {
        for (row, word) in [
            ("| MADE-UP-1-a | doors are shut | agent |", "4 cells"),
            ("| MADE-UP-1-a | doors are shut | agent | `a.rs::b`", "ends with"),
            ("| MADE-UP-1 | doors | agent | `a.rs::b` |", "no id"),
            ("| MADE-UP-1.-a | doors | agent | `a.rs::b` |", "no id"),
            ("| MADE-UP-0-a | doors | agent | `a.rs::b` |", "no id"),
            ("| MADE-UP-1-A | doors | agent | `a.rs::b` |", "no id"),
            ("| MADE-UP-1-ab | doors | agent | `a.rs::b` |", "no id"),
            ("| MADE-UP-1-a | doors | agent |  |", "neither"),
            ("| MADE-UP-1-a | doors | agent | yes |", "neither"),
            ("| MADE-UP-1-a | doors | agent | not yet |", "neither"),
            ("| MADE-UP-1-a | doors | agent | `shut` |", "neither"),
            ("| MADE-UP-1-a | doors | agent | `a.rs::b`, soon |", "neither"),
        ] {
            let findings = page(&[row]).unwrap_err().join("\n");
            assert!(findings.contains(word), "{row}: {findings}");
        }
        assert!(Table::parse("| a | b |\n").unwrap_err()[0].contains("must begin"));
        let early = format!("{HEADING}\n|---|---|---|---|\n{}\n", GOOD[0]);
        assert!(Table::parse(&early).unwrap_err()[0].contains("before the first heading"));
    }

    #[test]
    fn a_missing_row_is_found() {
        let findings = page(&GOOD[..2]).unwrap().check_clauses(STANDARD);
        assert_eq!(findings, ["made-up.md §2.1 has 2 demands, and the table 1 rows"]);
        assert!(page(&[]).unwrap().check_clauses(STANDARD).len() > 1);
    }

    #[test]
    fn unknown_clauses_and_standards_are_found() {
        let with = |id: &str| said(2, &GOOD[2].replace("MADE-UP-2.1-b", id));
        assert!(with("MADE-UP-2.2-b").contains("no such clause"));
        assert!(with("OTHER-2.1-b").contains("no such clause"));
        assert!(with("MADE-UP-2.1-c").contains("letters should go up"));
        let heading = "## Made up (made-up.md, 0000000)\n";
        assert!(Table::parse(heading).unwrap().check_clauses(STANDARD)[0].contains("abc1234"));
        assert_eq!(
            Table::parse("").unwrap().check_clauses(STANDARD),
            ["no section for made-up.md"]
        );
        let other = format!(
            "## Other (other.md)\n\n{HEADING}\n|---|---|---|---|\n{}\n",
            GOOD[0]
        );
        assert!(Table::parse(&other).unwrap().check_clauses(STANDARD)[0].contains("no known standard"));
    }

    #[test]
    fn rows_that_say_nothing_or_the_same_are_found() {
        assert!(said(0, "| MADE-UP-1-a | doors | agent | `a.rs::b` |").contains("says too little"));
        assert!(
            said(
                1,
                "| MADE-UP-2.1-a | windows are shut at night | server | not yet: later |"
            )
            .contains("reason")
        );
        assert!(
            said(
                1,
                "| MADE-UP-2.1-a | Doors are shut at night | server | `a.rs::b` |"
            )
            .contains("the same")
        );
        assert!(
            said(
                1,
                "| MADE-UP-2.1-a | windows are shut at night | nobody | `a.rs::b` |"
            )
            .contains("who is bound")
        );
        assert!(said(0, &GOOD[1].replace("windows", "all doors")).contains("stands twice"));
    }

    #[test]
    fn what_binds_us_cannot_be_put_off_as_not_ours() {
        let row =
            "| MADE-UP-1-a | doors are shut at night | agent, clients | not ours: the doors are theirs |";
        assert!(said(0, row).contains("so it is ours"));
    }

    #[test]
    fn tests_that_are_not_there_or_shown_too_often_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        std::fs::write(folder.path().join("tests/Cargo.toml"), "").unwrap();
        std::fs::write(folder.path().join("a.rs"), "#[test] fn b() {}").unwrap();
        let sources = Sources::of_repository(folder.path()).unwrap();
        let row =
            |letter: char, tests: &str| format!("| MADE-UP-1-{letter} | doors are shut | agent | {tests} |");
        let judged = |rows: &[String]| {
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            page(&rows).unwrap().check_tests(&sources).join("\n")
        };
        assert_eq!(judged(&[row('a', "`a.rs::b`")]), "");
        assert!(judged(&[row('a', "`a.rs::c`")]).contains("MADE-UP-1-a: there is no test `c`"));
        assert!(judged(&[row('a', "`a.rs::b`, `a.rs::b`")]).contains("stands twice"));
        let many: Vec<String> = ('a'..='f').map(|letter| row(letter, "`a.rs::b`")).collect();
        assert!(judged(&many).contains("is said to show 6 rows"));
    }
}
