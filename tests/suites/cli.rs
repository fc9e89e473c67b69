//! The command line as its users meet it: against real daemons, and against sockets that are not there.

use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use vouchsafe_tests::daemons::{Deployment, NODE, binary};
use vouchsafe_tests::wait::until;

type Outcome = anyhow::Result<()>;

/// Runs the command line without any daemon.
async fn alone(arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("vouchsafe")?);
    command.env_clear().args(arguments).stdin(Stdio::null());
    Ok(command.output().await?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(output: &Output, code: i32, said: &str) -> Outcome {
    let text = stderr(output);
    ensure!(
        output.status.code() == Some(code),
        "exit {:?}, not {code}: {text}",
        output.status.code()
    );
    ensure!(text.contains(said), "`{said}` is not in: {text}");
    Ok(())
}

fn texts<'v>(value: &'v Value, field: &str) -> Vec<&'v str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item.get(field)?.as_str())
        .collect()
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named_with_its_flag() -> Outcome {
    let cases: [(&[&str], &str); 3] = [
        (
            &["entry", "show", "--server-socket", "/nonexistent/s.sock"],
            "--server-socket",
        ),
        (
            &["explain", "1", "--agent-admin-socket", "/nonexistent/a.sock"],
            "--agent-admin-socket",
        ),
        (
            &["svid", "x509", "--workload-socket", "unix:///nonexistent/w.sock"],
            "--workload-socket",
        ),
    ];
    for (arguments, flag) in cases {
        let output = alone(arguments).await?;
        refused(&output, 69, flag)?;
        refused(&output, 69, "/nonexistent/")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_command_line_is_told_as_json_to_those_who_asked_for_it() -> Outcome {
    for arguments in [
        &["entry", "frob", "--output", "json"][..],
        &["--output=json", "entry", "show", "--frob"],
    ] {
        let output = alone(arguments).await?;
        let error: Value = serde_json::from_slice(&output.stderr)?;
        ensure!(
            output.status.code() == Some(64) && error.pointer("/error/exit_code") == Some(&Value::from(64))
        );
        ensure!(error.pointer("/error/kind") == Some(&Value::from("usage")));
        let message = error.pointer("/error/message").and_then(Value::as_str);
        ensure!(message.is_some_and(|text| text.contains("frob")), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_level_is_changed_while_the_daemons_run() -> Outcome {
    let at = Deployment::start().await?;
    let field = |value: &Value, name| value.get(name).and_then(Value::as_str).map(str::to_owned);
    for (whom, level) in [("server", "debug"), ("agent", "warn,vouchsafe_agent=trace")] {
        let before = at.json(&["log-level", "show", whom]).await?;
        ensure!(field(&before, "current").as_deref() == Some("info"), "{before}");
        let set = at.json(&["log-level", "set", whom, level]).await?;
        ensure!(field(&set, "current").as_deref() == Some(level), "{set}");
        ensure!(field(&set, "launch").as_deref() == Some("info"), "{set}");
        let wrong = at.vouchsafe(&["log-level", "set", whom, "loud"]).await?;
        refused(&wrong, 65, "`loud`")?;
        let shown = at.json(&["log-level", "show", whom]).await?;
        ensure!(shown == set, "a refused level changes nothing: {shown}");
    }
    // The server logs what it would not have logged before.
    until("the server logs more", async || {
        at.json(&["token", "generate"]).await.ok()?;
        at.logs().contains("DEBUG").then_some(())
    })
    .await?;
    for whom in ["server", "agent"] {
        let reset = at.json(&["log-level", "reset", whom]).await?;
        ensure!(field(&reset, "current").as_deref() == Some("info"), "{reset}");
    }
    Ok(())
}

#[tokio::test]
async fn a_socket_on_which_nobody_listens_is_unreachable() -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    let path = path.display().to_string();
    refused(
        &alone(&["entry", "count", "--server-socket", &path]).await?,
        69,
        "is the server running",
    )
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error_and_a_reader_that_left_is_none() -> Outcome {
    let written_to = async |stdout: Stdio| -> anyhow::Result<Output> {
        let mut command = Command::new(binary("vouchsafe")?);
        command.args(["completions", "bash"]).stdout(stdout);
        Ok(command.stderr(Stdio::piped()).spawn()?.wait_with_output().await?)
    };
    let full = std::fs::File::create("/dev/full")?;
    refused(&written_to(full.into()).await?, 1, "could not be written")?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let left = written_to(writer.into()).await?;
    ensure!(left.status.success(), "{:?}: {}", left.status, stderr(&left));
    Ok(())
}

#[tokio::test]
async fn wrong_usage_ends_with_64_and_names_the_value() -> Outcome {
    let create = ["entry", "create", "--spiffe-id", "spiffe://example.org/a"];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    let cases: [(Vec<&str>, &str); 6] = [
        (vec![], "Usage"),
        (vec!["frobnicate"], "frobnicate"),
        (vec!["entry", "show", "--output", "yaml"], "yaml"),
        (
            with(&["--parent-id", "example.org/n", "--selector", "unix:uid:1"]),
            "example.org/n",
        ),
        (with(&["--parent-id", NODE, "--selector", "unixuid1"]), "unixuid1"),
        (
            with(&[
                "--parent-id",
                NODE,
                "--selector",
                "unix:uid:1",
                "--x509-svid-ttl",
                "soon",
            ]),
            "soon",
        ),
    ];
    for (arguments, said) in cases {
        refused(&alone(&arguments).await?, 64, said).context(arguments.join(" "))?;
    }
    Ok(())
}

#[tokio::test]
async fn errors_are_json_for_programs() -> Outcome {
    let output = alone(&[
        "entry",
        "count",
        "--server-socket",
        "/nonexistent",
        "--output",
        "json",
    ])
    .await?;
    let error: Value = serde_json::from_slice(&output.stderr)?;
    ensure!(
        error.pointer("/error/kind") == Some(&Value::from("unreachable")),
        "{error}"
    );
    ensure!(
        error.pointer("/error/exit_code") == Some(&Value::from(69)),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn completions_and_help_need_no_daemon() -> Outcome {
    for shell in ["bash", "zsh", "fish"] {
        let output = alone(&["completions", shell]).await?;
        ensure!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
    let help = alone(&["--help"]).await?;
    ensure!(help.status.success());
    ensure!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
    Ok(())
}

#[tokio::test]
async fn entries_live_from_create_to_delete() -> Outcome {
    let at = Deployment::server_alone("").await?;
    let id = "spiffe://example.org/agent/researcher";
    let made = at
        .entry(
            id,
            &["unix:uid:1000"],
            &["--x509-svid-ttl", "15m", "--hint", "main"],
        )
        .await?;
    let entry_id = made
        .pointer("/entries/0/id")
        .and_then(Value::as_str)
        .context("no id")?
        .to_owned();
    ensure!(
        made.pointer("/entries/0/x509_svid_ttl_seconds") == Some(&Value::from(900)),
        "{made}"
    );

    let arguments = [
        "entry",
        "create",
        "--parent-id",
        NODE,
        "--spiffe-id",
        id,
        "--selector",
        "unix:uid:1000",
    ];
    refused(&at.vouchsafe(&arguments).await?, 65, &entry_id).context("the same again")?;

    at.entry("spiffe://example.org/agent/coder", &["unix:uid:1001"], &[])
        .await?;
    let shown = at.json(&["entry", "show"]).await?;
    ensure!(texts(&shown, "spiffe_id").len() == 2, "{shown}");
    let shown = at.json(&["entry", "show", "--selector", "unix:uid:1001"]).await?;
    ensure!(
        texts(&shown, "spiffe_id") == ["spiffe://example.org/agent/coder"],
        "{shown}"
    );
    let shown = at.json(&["entry", "show", "--hint", "main"]).await?;
    ensure!(texts(&shown, "id") == [entry_id.as_str()], "{shown}");

    let updated = at
        .json(&[
            "entry",
            "update",
            "--entry-id",
            &entry_id,
            "--dns",
            "a.example.org",
        ])
        .await?;
    ensure!(
        updated.pointer("/entries/0/dns_names/0") == Some(&Value::from("a.example.org")),
        "{updated}"
    );
    ensure!(
        updated.pointer("/entries/0/hint") == Some(&Value::from("main")),
        "the rest stays: {updated}"
    );
    ensure!(
        updated.pointer("/entries/0/revision") == Some(&Value::from(1)),
        "{updated}"
    );

    ensure!(at.json(&["entry", "count"]).await?.get("count") == Some(&Value::from(2)));
    at.json(&["entry", "delete", "--entry-id", &entry_id]).await?;
    refused(
        &at.vouchsafe(&["entry", "delete", "--entry-id", &entry_id])
            .await?,
        65,
        &entry_id,
    )?;
    refused(
        &at.vouchsafe(&["entry", "show", "--entry-id", &entry_id]).await?,
        65,
        "not found",
    )?;
    ensure!(at.json(&["entry", "count"]).await?.get("count") == Some(&Value::from(1)));
    Ok(())
}

#[tokio::test]
async fn entries_come_from_a_file_and_what_is_refused_is_told() -> Outcome {
    let at = Deployment::server_alone("").await?;
    let entry = |id: &str, domain: &str| {
        serde_json::json!({ "spiffe_id": format!("spiffe://{domain}/{id}"), "parent_id": NODE,
            "selectors": [{ "type": "unix", "value": "uid:7" }] })
    };
    let file = at.path("entries.json");
    let both =
        serde_json::json!({ "entries": [entry("good", "example.org"), entry("bad", "elsewhere.org")] });
    std::fs::write(&file, both.to_string())?;
    let arguments = [
        "entry",
        "create",
        "--data",
        &file.display().to_string(),
        "--output",
        "json",
    ];
    let output = at.vouchsafe(&arguments).await?;
    ensure!(
        output.status.code() == Some(1),
        "one of two failed: {}",
        stderr(&output)
    );
    let told: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        told.pointer("/entries/0/spiffe_id") == Some(&Value::from("spiffe://example.org/good")),
        "{told}"
    );
    ensure!(
        told.pointer("/refused/0/message")
            .and_then(Value::as_str)
            .is_some_and(|m| !m.is_empty()),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn asserted_selectors_alone_need_a_flag() -> Outcome {
    let at = Deployment::server_alone("").await?;
    let create = [
        "entry",
        "create",
        "--parent-id",
        NODE,
        "--spiffe-id",
        "spiffe://example.org/a",
    ];
    let asserted = [&create[..], &["--selector", "process:script:/srv/a.py"]].concat();
    refused(&at.vouchsafe(&asserted).await?, 65, "--allow-asserted")?;
    let allowed = [&asserted[..], &["--allow-asserted"]].concat();
    ensure!(at.vouchsafe(&allowed).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn agents_are_listed_banned_and_evicted() -> Outcome {
    let mut at = Deployment::start().await?;
    let agents = at.json(&["agent", "list"]).await?;
    let ids = texts(&agents, "spiffe_id");
    let [agent] = ids[..] else {
        anyhow::bail!("one agent: {agents}")
    };
    ensure!(
        agent.starts_with("spiffe://example.org/spire/agent/join_token/"),
        "{agent}"
    );
    let shown = at.json(&["agent", "show", "--spiffe-id", agent]).await?;
    ensure!(
        shown.get("attestation_type") == Some(&Value::from("join_token")),
        "{shown}"
    );
    ensure!(at.json(&["agent", "count"]).await?.get("count") == Some(&Value::from(1)));

    at.json(&["agent", "ban", "--spiffe-id", agent]).await?;
    let banned = at.json(&["agent", "list", "--banned", "true"]).await?;
    ensure!(texts(&banned, "spiffe_id") == [agent], "{banned}");
    let ended = at.agent.as_mut().context("the agent")?.ended().await?;
    ensure!(!ended.success(), "a banned agent stops, and not with success");

    at.json(&["agent", "evict", "--spiffe-id", agent]).await?;
    refused(
        &at.vouchsafe(&["agent", "evict", "--spiffe-id", agent]).await?,
        65,
        agent,
    )?;
    ensure!(at.json(&["agent", "count"]).await?.get("count") == Some(&Value::from(0)));
    Ok(())
}

const CLASS_FILE: &str = r#"
nodes = ["spiffe://example.org/node"]
max_ttl = "4h"
isolation = "none"
user = { first_uid = 70000, last_uid = 70009 }

[program]
executable = { path = "/usr/bin/python3", sha256 = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" }
module = "researcher"

[harden]
connect_ports = [443]
"#;

#[tokio::test]
async fn classes_live_from_create_to_delete() -> Outcome {
    let at = Deployment::start().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("class.toml");
    std::fs::write(&file, CLASS_FILE)?;
    let file = file.display().to_string();
    let id = format!(
        "spiffe://{}/agent/researcher",
        vouchsafe_tests::daemons::TRUST_DOMAIN
    );
    let create = [
        "class",
        "create",
        "researcher",
        "--id",
        id.as_str(),
        "--file",
        file.as_str(),
    ];
    let made = at
        .vouchsafe(&[create.as_slice(), &["--may-run-on", "any"]].concat())
        .await?;
    ensure!(made.status.success(), "{}", stderr(&made));
    let said = stderr(&made);
    ensure!(said.contains("can read the run's private key"), "{said}");
    ensure!(said.contains("nobody may launch it yet"), "{said}");
    refused(&at.vouchsafe(&create).await?, 65, "already exists")?;

    let update = [
        "class",
        "update",
        "researcher",
        "--max-runs",
        "3",
        "--launcher",
        "uid:1000",
    ];
    let updated = at.json(&update).await?;
    let spec = |field: &str| updated.pointer(&format!("/spec/{field}")).cloned();
    ensure!(updated.get("version") == Some(&Value::from(2)), "{updated}");
    ensure!(spec("max_runs") == Some(Value::from(3)), "{updated}");
    ensure!(spec("max_ttl") == Some(Value::from("4h")), "{updated}");
    ensure!(spec("user/last_uid") == Some(Value::from(70009)), "{updated}");
    ensure!(
        spec("program/module") == Some(Value::from("researcher")),
        "{updated}"
    );
    // What is shown is what a file may say.
    let again = folder.path().join("class.json");
    let shown = serde_json::to_string(updated.get("spec").context("a spec")?)?;
    std::fs::write(&again, shown)?;
    let again = again.display().to_string();
    let same = at
        .json(&["class", "update", "researcher", "--file", &again])
        .await?;
    ensure!(same.get("spec") == updated.get("spec"), "{same}");
    ensure!(texts(&at.json(&["class", "list"]).await?, "name") == ["researcher"]);

    wrong_words_change_no_class(&at).await?;
    a_program_of_a_class_is_measured(&at, &file).await?;

    ensure!(at.json(&["run", "list", "--state", "all"]).await? == Value::Array(Vec::new()));
    ensure!(at.json(&["run", "tree"]).await? == Value::Array(Vec::new()));
    let deleted = at.json(&["class", "delete", "researcher"]).await?;
    ensure!(
        deleted.get("deleted") == Some(&Value::from("researcher")),
        "{deleted}"
    );
    refused(
        &at.vouchsafe(&["class", "delete", "researcher"]).await?,
        65,
        "not found",
    )
}

async fn wrong_words_change_no_class(at: &Deployment) -> Outcome {
    for (wrong, code, text) in [
        (&["class", "show", "nobody"][..], 65, "class `nobody` not found"),
        (&["class", "show", "Nobody"], 64, "is not a class's name"),
        (
            &["class", "update", "researcher", "--isolation", "some"],
            65,
            "not one of: process, none",
        ),
        (
            &["class", "update", "researcher", "--max-ttl", "31d"],
            65,
            "out of range",
        ),
        (
            &["class", "update", "researcher", "--program", "/nonexistent"],
            1,
            "measure",
        ),
        (&["run", "show", "01K9Z3V7Q8R4S5T6V7W8X9YZAB"], 65, "not found"),
        (&["run", "kill", "x"], 64, "is not a run's id"),
    ] {
        refused(&at.vouchsafe(wrong).await?, code, text)?;
    }
    Ok(())
}

/// A class by flags alone, changed by flags: what a flag does not name stays, and each limit can be lifted again.
#[tokio::test]
async fn a_class_is_made_and_changed_by_flags_alone() -> Outcome {
    let at = Deployment::start().await?;
    let class = async |verb: &str, flags: &str| {
        let words: Vec<&str> = ["class", verb, "worker"]
            .into_iter()
            .chain(flags.split(' '))
            .collect();
        at.vouchsafe(&words).await
    };
    let id = format!(
        "--id spiffe://{}/agent/worker",
        vouchsafe_tests::daemons::TRUST_DOMAIN
    );
    for (wrong, code, text) in [
        ("--user 70000", 64, "write it as `70000:70000`"),
        (
            "--user launcher --uid-pool 70000-70001",
            64,
            "cannot be used with",
        ),
        ("--user 0:0", 65, "uid 0"),
        ("--on-end stop", 65, "not one of: kill, leave"),
        ("--harden-connect 0", 64, "`0` is no port"),
        ("--harden-bind none --harden-bind 80", 64, "stands alone"),
        ("--harden-read relative", 65, "`relative`"),
    ] {
        let flags = format!("{id} --program /bin/true --may-run-on any --launcher uid:0 {wrong}");
        refused(&class("create", &flags).await?, code, text)?;
    }
    let limits = "--user 70000:70001 --on-end leave --allow-mutable-files true --harden true --harden-read /usr --harden-write /tmp \
                  --harden-connect 443 --harden-connect 8443 --harden-bind none";
    let made = class(
        "create",
        &format!("{id} --program /bin/true --may-run-on any --launcher uid:0 {limits}"),
    )
    .await?;
    ensure!(made.status.success(), "{}", stderr(&made));
    let spec = async |pointer: &str| {
        let shown = at.json(&["class", "show", "worker"]).await?;
        let found = shown.pointer(&format!("/spec/{pointer}")).cloned();
        anyhow::Ok(found.unwrap_or_default())
    };
    let expect = async |expected: &[(&str, Value)]| {
        for (pointer, value) in expected {
            let found = spec(pointer).await?;
            ensure!(found == *value, "{pointer}: {found}, not {value}");
        }
        Ok(())
    };
    expect(&[
        ("user", json!({"uid": 70000, "gid": 70001})),
        ("on_end", json!("leave")),
        ("allow_mutable_files", json!(true)),
        ("harden/no_new_privs", json!(true)),
        ("harden/read_paths", json!(["/usr"])),
        ("harden/write_paths", json!(["/tmp"])),
        ("harden/connect_ports", json!([443, 8443])),
        ("harden/bind_ports", json!([])),
    ])
    .await?;
    let changed = "--harden-connect any --harden-bind 80 --harden-write any --user launcher --on-end kill";
    let changed = class("update", changed).await?;
    ensure!(changed.status.success(), "{}", stderr(&changed));
    expect(&[
        ("user", Value::Null),
        ("on_end", json!("kill")),
        ("allow_mutable_files", json!(true)),
        ("harden/read_paths", json!(["/usr"])),
        ("harden/write_paths", json!([])),
        ("harden/connect_ports", Value::Null),
        ("harden/bind_ports", json!([80])),
    ])
    .await
}

async fn a_program_of_a_class_is_measured(at: &Deployment, file: &str) -> Outcome {
    std::fs::write(file, "max_run = 3")?;
    let wrong = at
        .vouchsafe(&["class", "update", "researcher", "--file", file])
        .await?;
    refused(&wrong, 65, "max_run")?;
    let program = [
        "class",
        "update",
        "researcher",
        "--program",
        file,
        "--script",
        file,
    ];
    let measured = at.json(&program).await?;
    let sha256 = measured
        .pointer("/spec/program/script/sha256")
        .and_then(Value::as_str);
    ensure!(sha256.is_some_and(|sha256| sha256.len() == 64), "{measured}");
    Ok(())
}

#[tokio::test]
async fn the_bundle_is_shown_as_pem_and_as_spiffe_bundle() -> Outcome {
    let at = Deployment::server_alone("").await?;
    let pem = at.vouchsafe(&["bundle", "show"]).await?;
    ensure!(String::from_utf8_lossy(&pem.stdout).starts_with("-----BEGIN CERTIFICATE-----"));
    let document = at.vouchsafe(&["bundle", "show", "--format", "spiffe"]).await?;
    let document: Value = serde_json::from_slice(&document.stdout)?;
    let uses = document
        .get("keys")
        .map(|keys| texts(keys, "use"))
        .context("keys")?;
    ensure!(
        uses.contains(&"x509-svid") && uses.contains(&"jwt-svid"),
        "{document}"
    );
    Ok(())
}

#[tokio::test]
async fn a_process_without_an_entry_learns_why_and_one_with_an_entry_gets_svids() -> Outcome {
    let at = Deployment::start().await?;
    let uid = nix::unistd::geteuid().to_string();
    let denied = at.vouchsafe(&["svid", "x509"]).await?;
    refused(&denied, 77, "no identity issued")?;
    refused(&denied, 77, "vouchsafe explain")?;
    let me = at.json(&["explain"]).await?;
    ensure!(
        texts(me.get("selectors").context("selectors")?, "selector")
            .contains(&format!("unix:uid:{uid}").as_str()),
        "{me}"
    );
    ensure!(
        me.get("reason")
            .and_then(Value::as_str)
            .is_some_and(|reason| !reason.is_empty()),
        "{me}"
    );

    let id = "spiffe://example.org/agent/cli";
    at.entry(id, &[&format!("unix:uid:{uid}")], &[]).await?;
    let got = vouchsafe_tests::wait::until("the SVID is served", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await?;
    ensure!(texts(&got, "spiffe_id") == [id], "{got}");
    let watched = ["--output", "json", "svid", "watch", "--updates", "1"];
    let watched = String::from_utf8(at.vouchsafe(&watched).await?.stdout)?;
    ensure!(watched.lines().count() == 1 && watched.contains(id), "{watched}");
    let none = at.vouchsafe(&["svid", "watch", "--updates", "0"]).await?;
    refused(&none, 64, "--updates")?;

    let folder = at.path("out");
    std::fs::create_dir(&folder)?;
    let dir = folder.display().to_string();
    at.json(&["svid", "x509", "--write", &dir]).await?;
    let key = std::fs::metadata(folder.join("svid.0.key"))?;
    ensure!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777 == 0o600);
    ensure!(folder.join("svid.0.pem").is_file() && folder.join("bundle.0.pem").is_file());

    let jwt = at.json(&["svid", "jwt", "--audience", "db"]).await?;
    ensure!(
        texts(&jwt, "token")
            .first()
            .is_some_and(|token| token.split('.').count() == 3),
        "{jwt}"
    );
    let other = [
        "svid",
        "jwt",
        "--audience",
        "db",
        "--spiffe-id",
        "spiffe://example.org/agent/else",
    ];
    refused(&at.vouchsafe(&other).await?, 77, "no identity issued")?;
    Ok(())
}

#[tokio::test]
async fn explain_names_the_selector_that_is_missing() -> Outcome {
    let at = Deployment::start().await?;
    let uid = nix::unistd::geteuid().to_string();
    let selectors = [&format!("unix:uid:{uid}"), "unix:path:/opt/agent"];
    at.entry("spiffe://example.org/agent/near", &selectors, &[])
        .await?;
    let pid = std::process::id().to_string();
    let told = vouchsafe_tests::wait::until("the agent knows the entry", async || {
        let told = at.json(&["explain", &pid]).await.ok()?;
        (texts(told.get("nearest")?, "spiffe_id") == ["spiffe://example.org/agent/near"]).then_some(told)
    })
    .await?;
    ensure!(
        told.pointer("/nearest/0/missing/0") == Some(&Value::from("unix:path:/opt/agent")),
        "{told}"
    );
    ensure!(
        told.pointer("/knowledge/server_reachable") == Some(&Value::Bool(true)),
        "{told}"
    );
    let nobody = at.vouchsafe(&["explain", "2147483646"]).await?;
    refused(&nobody, 65, "2147483646")
}

#[tokio::test]
async fn health_speaks_for_both_and_the_audit_has_what_happened() -> Outcome {
    let at = Deployment::start().await?;
    let health = at.json(&["health"]).await?;
    let nowhere = [
        "--server-socket",
        "/nonexistent/a",
        "--agent-admin-socket",
        "/nonexistent/b",
        "health",
    ];
    let cli = vouchsafe_tests::daemons::binary("vouchsafe")?;
    let unheard = tokio::process::Command::new(cli).args(nowhere).output().await?;
    refused(&unheard, 69, "neither")?;
    refused(
        &at.vouchsafe(&["token", "generate", "--token", ""]).await?,
        64,
        "--token",
    )?;
    ensure!(texts(&health, "who") == ["server", "agent"], "{health}");
    ensure!(texts(&health, "status") == ["serving", "serving"], "{health}");

    at.entry("spiffe://example.org/agent/audited", &["unix:uid:4242"], &[])
        .await?;
    let records = vouchsafe_tests::wait::until("the change is in the log", async || {
        let output = at.vouchsafe(&["audit", "tail"]).await.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.contains("agent/audited").then_some(text)
    })
    .await?;
    let mut last = 0;
    for line in records.lines() {
        let record: Value = serde_json::from_str(line)?;
        let seq = record.get("seq").and_then(Value::as_u64).context("seq")?;
        ensure!(last == 0 || seq == last + 1, "no gap after {last}: {seq}");
        ensure!(
            record.get("principal").is_some() && record.get("request_id").is_some(),
            "{record}"
        );
        last = seq;
    }
    Ok(())
}

#[tokio::test]
async fn dev_gives_its_user_an_svid_and_leaves_nothing_behind() -> Outcome {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut command = Command::new(binary("vouchsafe")?);
    command
        .args(["dev", "--output", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut dev = command.spawn()?;
    let mut lines = BufReader::new(dev.stdout.take().context("stdout")?).lines();
    let first = tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, lines.next_line()).await??;
    let ready: Value = serde_json::from_str(&first.context("dev ended early")?)?;
    let field = |name: &str| ready.get(name).and_then(Value::as_str).context(name.to_owned());
    let got = alone(&[
        "svid",
        "x509",
        "--output",
        "json",
        "--workload-socket",
        field("spiffe_endpoint_socket")?,
    ])
    .await?;
    ensure!(got.status.success(), "{}", stderr(&got));
    let got: Value = serde_json::from_slice(&got.stdout)?;
    ensure!(texts(&got, "spiffe_id") == [field("spiffe_id")?], "{got}");

    let pid = i32::try_from(dev.id().context("dev has ended")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT)?;
    let status = tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, dev.wait()).await??;
    ensure!(status.success(), "{status}");
    ensure!(
        !std::path::Path::new(field("dir")?).exists(),
        "the temporary folder is gone"
    );
    Ok(())
}
