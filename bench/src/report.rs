//! What was measured, beside what it has to be: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// What a figure has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Limit {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtMost(limit) => measured <= limit,
            Self::AtLeast(limit) => measured >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", number(limit)),
            Self::AtLeast(limit) => format!("≥ {}", number(limit)),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Number of the figure.
    pub figure: u8,
    /// What was measured.
    pub what: String,
    /// What it has to hold; `None` where it is only told.
    pub limit: Option<Limit>,
    /// What came out.
    pub measured: f64,
    /// In what.
    pub unit: &'static str,
    /// Whether it holds; `None` where there is no limit.
    pub ok: Option<bool>,
}

/// Everything that was measured, in order.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The lines.
    pub lines: Vec<Line>,
}

impl Report {
    /// Adds a line with a limit.
    pub fn held(
        &mut self,
        figure: u8,
        what: impl Into<String>,
        limit: Limit,
        measured: f64,
        unit: &'static str,
    ) {
        let ok = Some(limit.holds(measured));
        self.push(figure, what.into(), Some(limit), measured, unit, ok);
    }

    /// Adds a line that is only told.
    pub fn told(&mut self, figure: u8, what: impl Into<String>, measured: f64, unit: &'static str) {
        self.push(figure, what.into(), None, measured, unit, None);
    }

    fn push(
        &mut self,
        figure: u8,
        what: String,
        limit: Option<Limit>,
        measured: f64,
        unit: &'static str,
        ok: Option<bool>,
    ) {
        self.lines.push(Line {
            figure,
            what,
            limit,
            measured,
            unit,
            ok,
        });
    }

    /// How many lines do not hold.
    #[must_use]
    pub fn misses(&self) -> usize {
        self.lines.iter().filter(|line| line.ok == Some(false)).count()
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let wide = |cell: &dyn Fn(&Line) -> String| {
            let widths = self.lines.iter().map(|line| cell(line).chars().count());
            widths.max().unwrap_or(0)
        };
        let limit = |line: &Line| line.limit.map(Limit::text).unwrap_or_default();
        let measured = |line: &Line| number(line.measured);
        let (what_width, limit_width) = (wide(&|line| line.what.clone()), wide(&limit));
        let measured_width = wide(&measured);
        let mut table = String::new();
        for line in &self.lines {
            let verdict = line.ok.map_or("", |ok| if ok { "ok" } else { "MISS" });
            // Writing to a text cannot fail.
            let _written = writeln!(
                table,
                "{} {:what_width$}  {:>measured_width$} {:10} {:limit_width$}  {verdict}",
                line.figure,
                line.what,
                measured(line),
                line.unit,
                limit(line),
            );
        }
        table
    }
}

/// A number with about three digits that matter.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Times of one kind, ordered.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl From<Vec<Duration>> for Times {
    fn from(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }
}

impl Times {
    /// The time below which so many of a hundred lie, in milliseconds; 0 where there is none.
    #[must_use]
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }

    /// The longest, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> f64 {
        self.percentile_ms(100)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_counted_and_shown() {
        let mut report = Report::default();
        report.held(1, "too dear", Limit::AtMost(1.25), 1.26, "×");
        report.held(1, "fast enough", Limit::AtLeast(75.0), 75.0, "%");
        report.told(2, "by the way", 12345.6, "a second");
        assert_eq!(report.misses(), 1);
        let table = report.table();
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[0].ends_with("MISS") && rows[0].contains("≤ 1.25"), "{table}");
        assert!(rows[1].ends_with("ok"), "{table}");
        assert!(rows[2].contains("12346 a second"), "{table}");
    }

    #[test]
    fn what_is_not_a_number_holds_nothing() {
        let mut report = Report::default();
        report.held(1, "nothing came", Limit::AtMost(1.0), f64::NAN, "×");
        report.held(1, "nothing came", Limit::AtLeast(1.0), f64::NAN, "×");
        assert_eq!(report.misses(), 2);
    }

    #[test]
    fn percentiles_are_of_the_ordered_times() {
        let times: Times = (1..=200)
            .rev()
            .map(Duration::from_millis)
            .collect::<Vec<_>>()
            .into();
        assert_eq!(times.percentile_ms(50), 100.0);
        assert_eq!(times.percentile_ms(99), 198.0);
        assert_eq!(times.longest_ms(), 200.0);
        assert_eq!(Times::default().percentile_ms(99), 0.0);
    }
}
