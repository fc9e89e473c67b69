//! Backup and restore with the real binaries: taken under load, put back, and served again to the agent that was there.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use vouchsafe_tests::daemons::{Deployment, binary, own_uid};
use vouchsafe_tests::wait::until;

/// Runs `vouchsafe-server restore`.
async fn restore(file: &Path, into: &Path, seal_key: Option<&Path>) -> anyhow::Result<Output> {
    let mut command = Command::new(binary("vouchsafe-server")?);
    command.arg("restore").arg(file).arg("--into").arg(into);
    if let Some(key) = seal_key {
        command.arg("--seal-key").arg(key);
    }
    Ok(command.stdin(Stdio::null()).output().await?)
}

fn refused(output: &Output, words: &str) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains(words),
        "{said}, not `{words}`"
    );
    Ok(())
}

fn done(output: &Output) -> anyhow::Result<()> {
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A file for the sealing key.
fn seal_key(at: &Deployment, name: &str, mode: u32) -> anyhow::Result<PathBuf> {
    let path = at.path(name);
    std::fs::write(&path, format!("{name:_<40}"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    Ok(path)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn entry(at: &Deployment, n: usize) -> anyhow::Result<Value> {
    let id = format!("spiffe://example.org/e{n}");
    at.entry(&id, &["unix:user:somebody"], &[]).await
}

fn strings(list: &Value, field: &str) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| Some(item.get(field)?.as_str()?.to_owned()))
        .collect()
}

async fn entries(at: &Deployment) -> anyhow::Result<BTreeSet<String>> {
    Ok(strings(&at.json(&["entry", "show"]).await?, "id"))
}

/// Waits until this process is served exactly these identities; the serial numbers of its SVIDs.
async fn served(at: &Deployment, ids: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let wanted: BTreeSet<_> = ids
        .iter()
        .map(|id| format!("spiffe://example.org/{id}"))
        .collect();
    let what = format!("this process has {wanted:?}");
    let svids = until(&what, async || {
        let svids = at.json(&["svid", "x509"]).await.ok()?;
        (strings(&svids, "spiffe_id") == wanted).then_some(svids)
    });
    let svids = svids.await.with_context(|| at.logs())?;
    Ok(strings(&svids, "serial_number"))
}

async fn audited(at: &Deployment, action: &str) -> anyhow::Result<()> {
    let told = format!("\"{action}\"");
    let what = format!("the server did `{action}`");
    let seen = until(&what, async || {
        let records = at.vouchsafe(&["audit", "tail"]).await.ok()?;
        String::from_utf8_lossy(&records.stdout)
            .contains(&told)
            .then_some(())
    });
    seen.await.with_context(|| at.logs())
}

/// The audit log has a number for each record, one after the other.
async fn no_gap(at: &Deployment) -> anyhow::Result<()> {
    let records = String::from_utf8(at.vouchsafe(&["audit", "tail"]).await?.stdout)?;
    for (seq, line) in (1..).zip(records.lines()) {
        let record: Value = serde_json::from_str(line)?;
        ensure!(
            record.get("seq") == Some(&Value::from(seq)),
            "a gap at {seq}: {line}"
        );
    }
    Ok(())
}

/// Takes a backup while entries come: each of them is in it or not, and those from before are.
async fn under_load(at: &Deployment, arguments: &[&str]) -> anyhow::Result<Value> {
    let (load, made) = tokio::join!(
        async {
            for n in 20..30 {
                entry(at, n).await?;
            }
            anyhow::Ok(())
        },
        at.json(arguments)
    );
    load?;
    made
}

/// What cannot be restored, and what stays as it was.
async fn refusals(at: &Deployment, file: &Path, key: &Path) -> anyhow::Result<()> {
    let into = at.path("refused");
    refused(
        &restore(file, &at.path("server"), Some(key)).await?,
        "is not empty",
    )?;
    refused(&restore(file, &into, None).await?, "--seal-key")?;
    let other = seal_key(at, "other.key", 0o600)?;
    refused(
        &restore(file, &into, Some(&other)).await?,
        "sealed with another key",
    )?;
    let open = seal_key(at, "open.key", 0o644)?;
    refused(
        &restore(file, &into, Some(&open)).await?,
        "so that others can read it",
    )?;
    let bytes = std::fs::read(file)?;
    let cut = at.path("cut");
    std::fs::write(&cut, bytes.get(..bytes.len() - 100).context("long enough")?)?;
    refused(&restore(&cut, &into, Some(key)).await?, "cut short")?;
    let mut altered = bytes;
    let middle = altered.len() / 2;
    *altered.get_mut(middle).context("long enough")? ^= 1;
    std::fs::write(&cut, altered)?;
    refused(&restore(&cut, &into, Some(key)).await?, "damaged")?;
    ensure!(
        !into.exists() || std::fs::read_dir(&into)?.next().is_none(),
        "something was left behind"
    );
    Ok(())
}

async fn there_and_back() -> anyhow::Result<()> {
    let mut at = Deployment::configured("agent_ttl = \"60s\"\n", "").await?;
    at.entry("spiffe://example.org/kept", &[&own_uid()], &[]).await?;
    let mut serials = served(&at, &["kept"]).await?;
    for n in 0..20 {
        entry(&at, n).await?;
    }
    let token = at.json(&["token", "generate"]).await?;
    let token = token
        .get("value")
        .and_then(Value::as_str)
        .context("a token")?
        .to_owned();
    let before = entries(&at).await?;
    let authorities = at.vouchsafe(&["bundle", "show", "--format", "pem"]).await?.stdout;
    let (file, key) = (at.path("backup"), seal_key(&at, "seal.key", 0o600)?);
    let made = under_load(&at, &["backup", &text(&file), "--seal-key", &text(&key)]).await?;
    ensure!(made.get("keys") == Some(&Value::from(2)), "{made}");
    let after = entries(&at).await?;
    let mode = std::fs::metadata(&file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
    let again = at.vouchsafe(&["backup", &text(&file), "--no-keys"]).await?;
    refused(&again, "is there already")?;
    let neither = at.vouchsafe(&["backup", &text(&at.path("neither"))]).await?;
    refused(&neither, "--seal-key")?;
    // What happens after the backup: an identity that will not have been, and the agent's next SVID.
    at.entry("spiffe://example.org/lost", &[&own_uid()], &[]).await?;
    serials.extend(served(&at, &["kept", "lost"]).await?);
    audited(&at, "node.promote").await?;

    refusals(&at, &file, &key).await?;
    at.server.take().context("a server")?.kill().await?;
    let into = at.path("restored");
    done(&restore(&file, &into, Some(&key)).await?)?;
    at.move_server(&into);
    at.start_server().await?;

    let found = entries(&at).await?;
    ensure!(before.is_subset(&found), "{before:?} {found:?}");
    ensure!(found.is_subset(&after), "{after:?} {found:?}");
    let now = at.vouchsafe(&["bundle", "show", "--format", "pem"]).await?.stdout;
    ensure!(now == authorities, "other authorities");
    // The agent goes on by what it has, and hears what is and what is not.
    audited(&at, "node.readmit").await?;
    audited(&at, "store.restore").await?;
    served(&at, &["kept"]).await?;
    at.entry("spiffe://example.org/new", &[&own_uid()], &[]).await?;
    let known = serials.clone();
    let new = served(&at, &["kept", "new"]).await?;
    ensure!(!new.is_subset(&known), "no new serial");
    no_gap(&at).await?;
    // A node that joins with a token from before the backup is refused.
    at.agent.take().context("an agent")?.kill().await?;
    std::fs::remove_dir_all(at.path("agent"))?;
    at.launch_agent(&["--join-token", &token])?;
    let ended = at.agent.as_mut().context("an agent")?.ended().await?;
    ensure!(!ended.success(), "a token came back");
    at.agent = None;
    at.join().await
}

#[tokio::test]
async fn a_backup_under_load_is_restored_and_the_agent_goes_on() {
    there_and_back().await.unwrap();
}

/// Without the keys nothing secret is in it; the server makes new ones, and issues.
async fn without_keys() -> anyhow::Result<()> {
    let mut at = Deployment::server_alone("").await?;
    entry(&at, 1).await?;
    let token = at.json(&["token", "generate"]).await?;
    let token = token
        .get("value")
        .and_then(Value::as_str)
        .context("a token")?
        .to_owned();
    let file = at.path("backup");
    let made = at.json(&["backup", &text(&file), "--no-keys"]).await?;
    ensure!(made.get("keys") == Some(&Value::from(0)), "{made}");
    let bytes = std::fs::read(&file)?;
    let mut secrets = vec![token.into_bytes()];
    for key in std::fs::read_dir(at.path("server/keys"))? {
        secrets.push(std::fs::read(key?.path())?);
    }
    ensure!(secrets.len() == 3, "two keys");
    for secret in secrets {
        ensure!(
            !bytes.windows(secret.len()).any(|part| part == secret),
            "a secret is in it"
        );
    }
    at.server.take().context("a server")?.kill().await?;
    let into = at.path("restored");
    done(&restore(&file, &into, None).await?)?;
    at.move_server(&into);
    at.begin_server()?;
    // Health may well say that keys are lost; entries and issuing are there.
    until("the server shows its entry", async || {
        (entries(&at).await.ok()?.len() == 1).then_some(())
    })
    .await?;
    at.join().await?;
    at.entry("spiffe://example.org/new", &[&own_uid()], &[]).await?;
    served(&at, &["new"]).await.map(drop)
}

#[tokio::test]
async fn a_backup_without_keys_holds_no_secret_and_is_of_use() {
    without_keys().await.unwrap();
}

/// Several to one name at once: one of them is there, whole, and the others say why they are not.
async fn at_once() -> anyhow::Result<()> {
    let mut at = Deployment::server_alone("").await?;
    let folder = at.path("backups");
    std::fs::create_dir(&folder)?;
    let (file, key) = (folder.join("one"), seal_key(&at, "seal.key", 0o600)?);
    for n in 0..50 {
        entry(&at, n).await?;
    }
    let (name, key_name) = (text(&file), text(&key));
    let arguments = ["--output", "json", "backup", &name, "--seal-key", &key_name];
    let four = tokio::try_join!(
        at.vouchsafe(&arguments),
        at.vouchsafe(&arguments),
        at.vouchsafe(&arguments),
        at.vouchsafe(&arguments),
    )?;
    let (made, others): (Vec<_>, Vec<_>) = <[Output; 4]>::from(four)
        .into_iter()
        .partition(|output| output.status.success());
    ensure!(made.len() == 1, "{} were made", made.len());
    for other in others {
        // The server makes one at a time; who comes when that is done finds the file.
        refused(&other, "another backup is under way").or_else(|_| refused(&other, "is there already"))?;
    }
    let told: Value = serde_json::from_slice(&made.first().context("one")?.stdout)?;
    let bytes = std::fs::metadata(&file)?.len();
    ensure!(told.get("bytes") == Some(&Value::from(bytes)), "{told}, {bytes}");
    let left: Vec<_> = std::fs::read_dir(&folder)?.collect();
    ensure!(left.len() == 1, "{left:?}");
    at.server.take().context("a server")?.kill().await?;
    done(&restore(&file, &at.path("restored"), Some(&key)).await?)
}

#[tokio::test]
async fn of_backups_to_one_name_at_once_one_is_whole_and_the_others_are_refused() {
    at_once().await.unwrap();
}
