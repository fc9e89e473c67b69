//! The standards at the revisions that the table was made from, and how often each clause says MUST, MUST NOT,
//! REQUIRED or SHALL. When a standard changes, count again and read what is new.

/// A standard of <https://github.com/spiffe/spiffe>, folder `standards`.
#[derive(Debug)]
pub(crate) struct Standard {
    /// What the ids of its rows begin with.
    pub(crate) prefix: &'static str,
    /// Its file, as the page links it.
    pub(crate) file: &'static str,
    /// The commit that changed the file last.
    pub(crate) revision: &'static str,
    /// Clauses and how many demands stand in each.
    pub(crate) clauses: &'static [(&'static str, usize)],
}

impl Standard {
    /// How many demands there are in all.
    pub(crate) fn demands(&self) -> usize {
        self.clauses.iter().map(|(_, count)| count).sum()
    }
}

/// The six standards that are served.
pub(crate) const STANDARDS: &[Standard] = &[
    Standard {
        prefix: "SPIFFE-ID",
        file: "SPIFFE-ID.md",
        revision: "665a28f",
        clauses: &[
            ("2", 2),
            ("2.1", 6),
            ("2.2", 4),
            ("2.3", 1),
            ("3.1", 2),
            ("3.2", 1),
            ("3.3", 1),
        ],
    },
    Standard {
        prefix: "X509-SVID",
        file: "X509-SVID.md",
        revision: "21896ac",
        clauses: &[
            ("2", 2),
            ("3.1", 2),
            ("3.2", 2),
            ("4.1", 2),
            ("4.2", 1),
            ("4.3", 5),
            ("4.4", 1),
            ("5.1", 1),
            ("5.2", 4),
            ("6.1", 4),
            ("6.2", 2),
        ],
    },
    Standard {
        prefix: "JWT-SVID",
        file: "JWT-SVID.md",
        revision: "21896ac",
        clauses: &[
            ("1", 1),
            ("2", 1),
            ("2.1", 2),
            ("2.3", 1),
            ("3.1", 1),
            ("3.2", 2),
            ("3.3", 2),
            ("4", 3),
            ("5.1", 1),
            ("6.1", 2),
            ("6.2", 1),
        ],
    },
    Standard {
        prefix: "BUNDLE",
        file: "SPIFFE_Trust_Domain_and_Bundle.md",
        revision: "21896ac",
        clauses: &[
            ("4.1", 1),
            ("4.1.1", 2),
            ("4.1.2", 1),
            ("4.1.3", 3),
            ("4.2", 1),
            ("4.2.1", 2),
            ("4.2.2", 2),
            ("5.1.1", 4),
        ],
    },
    Standard {
        prefix: "ENDPOINT",
        file: "SPIFFE_Workload_Endpoint.md",
        revision: "665a28f",
        clauses: &[("3", 5), ("3.1", 1), ("4", 6), ("5", 2), ("6", 1), ("7", 2)],
    },
    Standard {
        prefix: "WORKLOAD-API",
        file: "SPIFFE_Workload_API.md",
        revision: "665a28f",
        clauses: &[
            ("1", 1),
            ("2", 1),
            ("4.3", 3),
            ("4.4", 3),
            ("5.1", 2),
            ("5.2.1", 3),
            ("5.2.2", 2),
            ("6.2.1", 4),
            ("6.2.2", 3),
            ("6.2.3", 1),
            ("6.3", 1),
            ("7", 1),
            ("7.1", 1),
            ("7.2.1", 3),
            ("7.2.2", 2),
        ],
    },
];

#[test]
fn the_counts_are_those_of_the_files() {
    let counts: Vec<usize> = STANDARDS.iter().map(Standard::demands).collect();
    assert_eq!(counts, [17, 26, 17, 16, 17, 31]);
}
