//! The metrics that docs/metrics.md lists are those that the real daemons export, both ways, with their kinds and labels.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do"
)]

#[path = "docs/markdown.rs"]
#[expect(dead_code, reason = "this suite reads tables only")]
mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use markdown::{Page, quoted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_tests::daemons::{Deployment, own_uid};
use vouchsafe_tests::repository;
use vouchsafe_tests::wait::until;

/// Kind and labels of each metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// Names as a query has them: a counter's ends in `_total`.
fn exported(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if (words.next(), words.next()) == (Some("#"), Some("TYPE")) {
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            let end = if kind == "counter" { "_total" } else { "" };
            metrics.insert(format!("{name}{end}"), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for (name, (_, labels)) in &mut metrics {
        for line in text.lines().filter_map(|line| line.strip_prefix(name.as_str())) {
            let own = ["", "_bucket", "_count", "_sum"];
            let Some((end, set)) = line.split_once('{') else {
                continue;
            };
            if !own.contains(&end) {
                continue;
            }
            let set = set.split_once('}').unwrap().0;
            let names = set.split("\",").filter_map(|pair| pair.split_once('='));
            labels.extend(
                names
                    .map(|(label, _)| label.to_owned())
                    .filter(|label| label != "le"),
            );
        }
    }
    metrics
}

fn documented(daemon: &str) -> Metrics {
    let page = Page::read(&repository().join("docs/metrics.md")).unwrap();
    let tables = [
        page.table(&format!("metric of the {daemon}")),
        page.table("metric of both"),
    ];
    let rows = tables.iter().flatten();
    let row = |row: &Vec<String>| {
        let labels = quoted(&row[2]).into_iter().collect();
        (quoted(&row[0]).remove(0), (row[1].clone(), labels))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn what_is_documented_is_exported_and_what_is_exported_is_documented() {
    let (server, agent) = (free_address(), free_address());
    let section = |address| format!("[metrics]\naddress = \"{address}\"\n");
    let agent_config = format!("sync_interval = \"1s\"\n{}", section(agent));
    let at = Deployment::configured(&section(server), &agent_config)
        .await
        .unwrap();
    at.entry("spiffe://example.org/w", &[&own_uid()], &[])
        .await
        .unwrap();
    until("the command line gets its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await
    .unwrap();
    let (server, agent) = (scrape(server).await, scrape(agent).await);
    assert_eq!(exported(&server), documented("server"), "{server}");
    assert_eq!(exported(&agent), documented("agent"), "{agent}");
    let value = |text: &str, name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no `{name}` in:\n{text}"))
            .parse()
            .unwrap()
    };
    for name in [
        "vouchsafe_server_entries",
        "vouchsafe_server_nodes",
        "vouchsafe_server_svids_issued_total{kind=\"agent\"}",
        "vouchsafe_server_svids_issued_total{kind=\"x509\"}",
    ] {
        assert!(value(&server, name) > 0.0, "`{name}` in:\n{server}");
    }
    for name in [
        "vouchsafe_agent_entries",
        "vouchsafe_agent_cached_svids{kind=\"x509\"}",
        "vouchsafe_agent_svid_requests_total{kind=\"x509\",outcome=\"issued\"}",
        "vouchsafe_agent_server_reachable",
    ] {
        assert!(value(&agent, name) > 0.0, "`{name}` in:\n{agent}");
    }
    let refused = "vouchsafe_server_refused_calls_total{limit=\"signatures_per_second_per_caller\"}";
    assert!(value(&server, refused).abs() < f64::EPSILON, "{server}");
}

#[tokio::test]
async fn without_an_address_nothing_listens() {
    let at = Deployment::server_alone("").await.unwrap();
    assert!(!at.logs().contains("metrics are served"), "{}", at.logs());
}
