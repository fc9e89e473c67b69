//! An agent that an ordinary user runs, without any right: what it can launch is weaker, which is said, and refused where the
//! class demands more. With a subtree of control groups that was delegated to it, it knows the children too.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::poll::PollTimeout;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vouchsafe_launch::cgroups::CgroupRoot;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::{DEADLINE, until};

use crate::stage::{Stage, measured};

/// A user that nobody else is.
const UID: u32 = 61_310;
/// And one that has another agent.
const DELEGATED: u32 = 61_311;

/// A process as that user, in that control group if one is named.
fn as_user(uid: u32, group: Option<&Path>, program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    let enter = group.map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display()));
    let ids = format!("--reuid={uid} --regid={uid} --clear-groups");
    let script = format!("{}exec setpriv {ids} \"$0\" \"$@\"", enter.unwrap_or_default());
    command.arg("-c").arg(script).arg(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A subtree of control groups that belongs to a user, until this is dropped.
struct Delegated(CgroupRoot);

impl Delegated {
    fn to(uid: u32) -> Self {
        let name = format!("vouchsafe.test-delegated-{}", std::process::id());
        let root = CgroupRoot::of_self(&name).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(root.path().join(file), Some(uid), Some(uid)).unwrap();
        }
        Self(root)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let name = self.0.path().file_name().map(ToOwned::to_owned);
        let Some(above) = self.0.path().parent().zip(name) else {
            return;
        };
        for below in self.0.list().unwrap_or_default() {
            let _gone = below.kill();
            let _gone = below.wait_empty_for(PollTimeout::from(5000_u16));
            let _gone = below.remove();
        }
        let _kept_for_looking = fs::remove_dir(above.0.join(above.1));
    }
}

/// The agent, in a folder of its user's.
struct Ordinary {
    stage: Stage,
    dir: PathBuf,
    uid: u32,
    _agent: Child,
}

impl Ordinary {
    async fn start(uid: u32, group: Option<&Path>) -> Self {
        let stage = Stage::empty().await.unwrap();
        let bin = stage.at.path("bin");
        let dir = stage.at.path("ordinary");
        for folder in [&bin, &dir] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        chown(&dir, Some(uid), Some(uid)).unwrap();
        for name in ["vouchsafe-agent", "vouchsafe-supervisor", "vouchsafe"] {
            fs::copy(binary(name).unwrap(), bin.join(name)).unwrap();
        }
        let node = "spiffe://example.org/node/ordinary";
        let token = stage.at.json(&["token", "generate", "--spiffe-id", node]).await;
        let token = token.unwrap()["value"].as_str().unwrap().to_owned();
        fs::set_permissions(stage.at.path("bundle.pem"), Permissions::from_mode(0o644)).unwrap();
        let path = |name: &str| dir.join(name);
        let config = format!(
            "trust_domain = \"example.org\"\ndata_dir = {:?}\nserver_address = \"{}\"\nworkload_socket = {:?}\n\
             admin_socket = {:?}\ntrust_bundle = {:?}\njoin_token = \"{token}\"\n[launch]\nsocket = {:?}\n\
             programs_dir = {:?}\n",
            path("data"),
            stage.at.server_address(),
            path("workload.sock"),
            path("admin.sock"),
            stage.at.path("bundle.pem"),
            path("launch.sock"),
            path("programs"),
        );
        let file = path("agent.toml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(path("agent.log")).unwrap();
        let agent = as_user(uid, group, &bin.join("vouchsafe-agent"))
            .args(["run", "--config"])
            .arg(&file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let up = until("the ordinary user's agent is up", async || {
            path("launch.sock").exists().then_some(())
        });
        let log = || fs::read_to_string(path("agent.log")).unwrap_or_default();
        assert!(up.await.is_ok(), "{}", log());
        Self {
            stage,
            dir,
            uid,
            _agent: agent,
        }
    }

    /// A class that asks for so much isolation.
    async fn class(&self, name: &str, isolation: &str) {
        let spec = format!(
            "any_node = true\nlaunchers = [\"uid:{}\", \"uid:0\"]\nisolation = \"{isolation}\"\n\n\
             [program]\nexecutable = {}\nscript = {}\nextra_args = true\n",
            self.uid,
            measured(&interpreter()).unwrap(),
            measured(&self.stage.script).unwrap(),
        );
        let id = format!("spiffe://example.org/agent/{name}");
        self.stage.class(name, &id, &spec).await.unwrap();
    }

    /// What comes of a launch by a user.
    async fn launch(&self, uid: u32, class: &str, arguments: &[&str]) -> Output {
        let program = self.stage.at.path("bin/vouchsafe");
        let mut command = as_user(uid, None, &program);
        command
            .arg("run")
            .arg("--launch-socket")
            .arg(self.dir.join("launch.sock"));
        command.args(["--class", class, "--"]).arg(interpreter());
        command.arg(&self.stage.script).args(arguments).current_dir("/");
        timeout(DEADLINE, command.output()).await.unwrap().unwrap()
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn an_ordinary_users_agent_launches_what_demands_no_more_and_says_what_is_weaker() {
    require!(Need::Root, Need::Python);
    let agent = Ordinary::start(UID, None).await;
    agent.class("strict", "process").await;
    agent.class("plain", "none").await;

    let strict = agent.launch(UID, "strict", &["ask", "main"]).await;
    let (said, complaint) = texts(&strict);
    assert!(!strict.status.success() && said.is_empty(), "{said} {complaint}");
    assert!(complaint.contains("isolation"), "{complaint}");

    // Who is not root becomes nobody else.
    let foreign = agent.launch(0, "plain", &["ask", "main"]).await;
    let (said, complaint) = texts(&foreign);
    assert!(!foreign.status.success() && said.is_empty(), "{said} {complaint}");
    assert!(
        complaint.contains(&format!("launches nothing for uid 0: ask as uid {UID}")),
        "{complaint}"
    );

    let own = agent.launch(UID, "plain", &["ask", "main"]).await;
    let (said, complaint) = texts(&own);
    assert!(own.status.success(), "{said} {complaint}");
    let id = "spiffe://example.org/agent/plain/run/";
    assert!(said.contains(id), "{said} {complaint}");
    for weaker in ["shares its user", "read its memory", "children are not told"] {
        assert!(complaint.contains(weaker), "`{weaker}` is missing: {complaint}");
    }
}

#[tokio::test]
async fn with_a_delegated_subtree_an_ordinary_users_agent_knows_the_children() {
    require!(Need::Root, Need::Python);
    let groups = Delegated::to(DELEGATED);
    let own = groups.0.create("agent").unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(own.path().join(file), Some(DELEGATED), Some(DELEGATED)).unwrap();
    }
    let agent = Ordinary::start(DELEGATED, Some(own.path())).await;
    agent.class("plain", "none").await;
    let told = agent.launch(DELEGATED, "plain", &[]).await;
    let (said, complaint) = texts(&told);
    assert!(told.status.success(), "{said} {complaint}");
    assert!(!complaint.contains("children are not told"), "{complaint}");
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |who: &str| {
        let line = lines.iter().find(|line| line["who"] == who);
        line.unwrap_or_else(|| panic!("{who}: {said}"))["got"].clone()
    };
    assert!(of("main").is_array(), "{said}");
    for child in ["child", "shell", "session", "nohup", "daemon"] {
        let got = of(child).to_string();
        assert!(got.contains("lets only the run's main process"), "{child}: {got}");
    }
    // A child of its own user reads its memory: that is what is weaker.
    assert!(complaint.contains("read its memory"), "{complaint}");
    drop((agent, own));
}
