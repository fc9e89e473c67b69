//! Classes over the API: what is refused, and that their ids belong to them alone.

use tonic::Code;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
};
use vouchsafe_proto::spire::api::server::svid::v1::MintJwtsvidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::vouchsafe::run::v1 as run;
use vouchsafe_proto::vouchsafe::run::v1::classes_client::ClassesClient;

use crate::support::*;

pub(crate) const CLASS: &str = "/agent/researcher";
const ULID: &str = "01K9Z3V7Q8R4S5T6V7W8X9YZAB";

pub(crate) fn file(path: &str) -> run::MeasuredFile {
    run::MeasuredFile {
        path: path.to_owned(),
        sha256: "0a".repeat(32),
        role: 0,
    }
}

/// A class that any node may run, and user 1000 launch.
pub(crate) fn spec() -> run::ClassSpec {
    run::ClassSpec {
        program: Some(run::Program {
            executable: Some(file("/usr/bin/python3")),
            script: Some(file("/opt/researcher.py")),
            ..run::Program::default()
        }),
        any_node: true,
        launchers: vec!["uid:1000".to_owned()],
        ..run::ClassSpec::default()
    }
}

pub(crate) fn creation(name: &str, path: &str, spec: run::ClassSpec) -> run::CreateClassRequest {
    run::CreateClassRequest {
        name: name.to_owned(),
        id: id(path).to_string(),
        spec: Some(spec),
    }
}

pub(crate) async fn classes(server: &TestServer) -> ClassesClient<Channel> {
    ClassesClient::new(server.local().await)
}

pub(crate) async fn create(server: &TestServer, spec: run::ClassSpec) -> run::Class {
    let mut client = classes(server).await;
    let made = client.create_class(creation("researcher", CLASS, spec)).await;
    made.unwrap().into_inner()
}

async fn create_entry(server: &TestServer, path: &str) -> (i32, String) {
    let mut client = EntryClient::new(server.local().await);
    let asked = BatchCreateEntryRequest {
        entries: vec![entry(&id("/spire/agent/x"), path, 1)],
        output_mask: None,
    };
    let answer = client.batch_create_entry(asked).await.unwrap().into_inner();
    let status = answer.results[0].status.clone().unwrap();
    (status.code, status.message)
}

fn owned() -> [String; 5] {
    [
        CLASS.to_owned(),
        format!("{CLASS}/run"),
        format!("{CLASS}/run/x"),
        format!("{CLASS}/run/{ULID}"),
        format!("{CLASS}/run/{ULID}/child/1"),
    ]
}

#[tokio::test]
async fn no_entry_token_or_mint_gives_an_id_of_a_class_or_its_runs() {
    let server = server().await;
    create(&server, spec()).await;
    let other = server.entry(entry(&id("/spire/agent/x"), "/elsewhere", 1)).await;
    for path in owned() {
        let (code, text) = create_entry(&server, &path).await;
        assert_eq!(code, i32::from(Code::InvalidArgument), "{path}: {text}");
        assert!(text.contains("belongs to a class"), "{path}: {text}");

        let mut moved = other.clone();
        moved.spiffe_id = Some(message(&id(&path)));
        let asked = BatchUpdateEntryRequest {
            entries: vec![moved],
            ..BatchUpdateEntryRequest::default()
        };
        let mut client = EntryClient::new(server.local().await);
        let answer = client.batch_update_entry(asked).await.unwrap().into_inner();
        let status = answer.results[0].status.clone().unwrap();
        assert!(
            status.message.contains("belongs to a class"),
            "{path}: {status:?}"
        );

        let asked = MintJwtsvidRequest {
            id: Some(message(&id(&path))),
            audience: vec!["a".to_owned()],
            ttl: 0,
        };
        let minted = SvidClient::new(server.local().await).mint_jwtsvid(asked).await;
        refused(minted, Code::PermissionDenied, "belongs to class `researcher`");

        let asked = CreateJoinTokenRequest {
            ttl: 60,
            agent_id: Some(message(&id(&path))),
            ..CreateJoinTokenRequest::default()
        };
        let made = AgentClient::new(server.local().await)
            .create_join_token(asked)
            .await;
        refused(made, Code::InvalidArgument, "belongs to a class");
    }
    // Its neighbours are anybody's.
    for path in ["/agent", "/agent/researcher2", "/agent/researcher/tool"] {
        assert_eq!(create_entry(&server, path).await.0, 0, "{path}");
    }
    let mut client = classes(&server).await;
    let name = "researcher".to_owned();
    let asked = run::DeleteClassRequest { name, force: false };
    client.delete_class(asked).await.unwrap();
    for path in owned() {
        assert_eq!(create_entry(&server, &path).await.0, 0, "{path}");
    }
}

#[tokio::test]
async fn no_class_takes_an_id_that_an_entry_gives_or_another_class_has() {
    let server = server().await;
    let mut client = classes(&server).await;
    for path in owned() {
        let entry = server.entry(entry(&id("/spire/agent/x"), &path, 1)).await;
        let made = client.create_class(creation("researcher", CLASS, spec())).await;
        refused(made, Code::FailedPrecondition, "delete that entry first");
        let asked = BatchDeleteEntryRequest { ids: vec![entry.id] };
        let mut entries = EntryClient::new(server.local().await);
        entries.batch_delete_entry(asked).await.unwrap();
    }
    create(&server, spec()).await;
    let again = client
        .create_class(creation("researcher", "/other", spec()))
        .await;
    refused(again, Code::AlreadyExists, "already exists");
    let again = client.create_class(creation("other", CLASS, spec())).await;
    refused(again, Code::AlreadyExists, "another class has the id");
}

#[tokio::test]
async fn an_entry_and_a_class_that_race_for_an_id_never_both_have_it() {
    let server = server().await;
    for round in 0..20 {
        let path = format!("/agent/racer-{round}");
        let mut client = classes(&server).await;
        let name = format!("racer-{round}");
        let below = format!("{path}/run/x");
        let class = client.create_class(creation(&name, &path, spec()));
        let (class, entry) = tokio::join!(class, create_entry(&server, &below));
        assert!(class.is_err() || entry.0 != 0, "{path}");
        assert!(class.is_ok() || entry.0 == 0, "{path}: {class:?}, {entry:?}");
    }
}

/// Programs, files, nodes and launchers that are refused, and with which words.
fn wrong_programs() -> Vec<(&'static str, run::ClassSpec)> {
    let mut wrong: Vec<(&str, run::ClassSpec)> = Vec::new();
    let mut with = |text, change: &dyn Fn(&mut run::ClassSpec)| {
        let mut spec = spec();
        change(&mut spec);
        wrong.push((text, spec));
    };
    with("`program` is missing", &|spec| spec.program = None);
    with("`program.executable` is missing", &|spec| {
        spec.program.as_mut().unwrap().executable = None;
    });
    with("not an absolute path", &|spec| {
        spec.program.as_mut().unwrap().executable = Some(file("python3"));
    });
    with("not an absolute path", &|spec| {
        spec.program.as_mut().unwrap().script = Some(file("/opt/../x"));
    });
    with("not a SHA-256", &|spec| {
        spec.files = vec![run::MeasuredFile {
            sha256: "0A".repeat(32),
            ..file("/a")
        }];
    });
    with("named twice", &|spec| spec.files = vec![file("/a"), file("/a")]);
    with("257 files are more than the limit of 256", &|spec| {
        spec.files = (0..257).map(|n| file(&format!("/f/{n}"))).collect();
    });
    with("exclude each other", &|spec| {
        spec.program.as_mut().unwrap().module = "m".to_owned();
    });
    with("exclude each other", &|spec| {
        spec.nodes = vec![id("/node").to_string()]
    });
    with("in the server's trust domain", &|spec| {
        spec.any_node = false;
        spec.nodes = vec!["spiffe://other.org/n".to_owned()];
    });
    with("257 launchers are more than the limit of 256", &|spec| {
        spec.launchers = (0..257).map(|n| format!("uid:{n}")).collect();
    });
    for launcher in [
        "",
        "uid:",
        "uid:01",
        "uid:-1",
        "uid:4294967295",
        "root",
        "user:a b",
        "gid:x",
    ] {
        with("is not a launcher", &|spec| {
            spec.launchers = vec![launcher.to_owned()]
        });
    }
    with("not in the server's trust domain", &|spec| {
        spec.launchers = vec!["spiffe://other.org/**".to_owned()];
    });
    wrong
}

/// Numbers, users and words that are refused.
fn wrong_numbers() -> Vec<(&'static str, run::ClassSpec)> {
    let mut wrong: Vec<(&str, run::ClassSpec)> = Vec::new();
    let mut with = |text, change: &dyn Fn(&mut run::ClassSpec)| {
        let mut spec = spec();
        change(&mut spec);
        wrong.push((text, spec));
    };
    with(
        "`max_ttl_seconds` of 2592001 is out of range: 1 to 2592000",
        &|spec| {
            spec.max_ttl_seconds = 30 * 24 * 3600 + 1;
        },
    );
    with("`max_runs` of 10001 is out of range: 1 to 10000", &|spec| {
        spec.max_runs = 10_001;
    });
    let fixed = |uid| run::run_user::User::Fixed(run::run_user::Fixed { uid, gid: 0 });
    let pool = |first_uid, last_uid| run::run_user::User::Pool(run::run_user::Pool { first_uid, last_uid });
    for (text, user) in [
        ("uid 0", fixed(0)),
        ("`uid` of 4294967295 is out of range", fixed(u32::MAX)),
        ("uid 0", pool(0, 9)),
        ("`last_uid` of 9 is out of range", pool(10, 9)),
        ("`last_uid` of 165546 is out of range", pool(100_010, 165_546)),
    ] {
        with(text, &|spec| spec.user = Some(run::RunUser { user: Some(user) }));
    }
    with("is not the name of a variable", &|spec| {
        spec.env_allow = vec!["A=B".to_owned()]
    });
    with("an audience is empty", &|spec| {
        spec.claims_audiences = vec![String::new()]
    });
    with("65 audiences are more than the limit of 64", &|spec| {
        spec.class_sub_audiences = (0..65).map(|n| n.to_string()).collect();
    });
    with("`port` of 0 is out of range", &|spec| {
        spec.harden = Some(run::Harden {
            hold_bind: true,
            bind_ports: vec![0],
            ..run::Harden::default()
        });
    });
    with("`isolation` has no value 9", &|spec| spec.isolation = 9);
    with("`inherit` has no value 9", &|spec| spec.inherit = 9);
    with(
        "a description of 1025 bytes is longer than the limit of 1024 bytes",
        &|spec| {
            spec.description = "d".repeat(1025);
        },
    );
    wrong
}

#[tokio::test]
async fn bad_names_ids_and_lists_are_refused_with_what_is_wrong() {
    let server = server().await;
    let mut client = classes(&server).await;
    let id_of = |path: &str| id(path).to_string();
    for (name, id, text) in [
        ("", id_of("/a"), "`class` is missing"),
        ("Researcher", id_of("/a"), "is not a class's name"),
        (&*"a".repeat(64), id_of("/a"), "1 to 63"),
        ("a", String::new(), "malformed"),
        ("a", id_of(""), "has no path"),
        ("a", id_of("/spire/a"), "reserved"),
        ("a", id_of("/a/run/b"), "segment `run`"),
        ("a", id_of(&format!("/{}", "a".repeat(600))), "limit of 512 bytes"),
        (
            "a",
            "spiffe://other.org/a".to_owned(),
            "not a member of trust domain",
        ),
    ] {
        let asked = run::CreateClassRequest {
            name: name.to_owned(),
            id,
            spec: Some(spec()),
        };
        refused(client.create_class(asked).await, Code::InvalidArgument, text);
    }
    for (text, spec) in wrong_programs().into_iter().chain(wrong_numbers()) {
        let made = client.create_class(creation("a", "/a", spec)).await;
        refused(made, Code::InvalidArgument, text);
    }
    let listed = client.list_classes(run::ListClassesRequest::default()).await;
    assert!(listed.unwrap().into_inner().classes.is_empty());
}

#[tokio::test]
async fn a_class_has_versions_and_what_is_not_said_has_safe_defaults() {
    let server = server().await;
    let made = create(&server, spec()).await;
    let said = made.spec.clone().unwrap();
    assert_eq!((made.version, made.live_runs), (1, 0));
    assert_eq!((said.max_ttl_seconds, said.max_runs), (24 * 3600, 16));
    assert_eq!(said.inherit(), run::Inherit::None);
    assert_eq!(said.isolation(), run::Isolation::Process);
    assert_eq!(said.on_end(), run::OnEnd::Kill);
    assert!(said.user.is_none() && !said.allow_mutable_files);

    let mut client = classes(&server).await;
    let update = |version, disabled| run::UpdateClassRequest {
        name: "researcher".to_owned(),
        version,
        spec: Some(run::ClassSpec { disabled, ..spec() }),
    };
    let updated = client.update_class(update(1, true)).await.unwrap().into_inner();
    assert_eq!(updated.version, 2);
    refused(
        client.update_class(update(1, false)).await,
        Code::Aborted,
        "version 2 by now",
    );
    let updated = client.update_class(update(0, false)).await.unwrap().into_inner();
    assert_eq!((updated.version, updated.created_at), (3, made.created_at));
    let get = |name: &str| run::GetClassRequest {
        name: name.to_owned(),
    };
    assert_eq!(
        client.get_class(get("researcher")).await.unwrap().into_inner(),
        updated
    );
    refused(
        client.get_class(get("other")).await,
        Code::NotFound,
        "class `other` not found",
    );

    for name in ["b", "a", "c"] {
        let creation = creation(name, &format!("/agent/{name}"), spec());
        client.create_class(creation).await.unwrap();
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = 2;
        let asked = run::ListClassesRequest {
            page_size,
            page_token,
        };
        let page = client.list_classes(asked).await.unwrap().into_inner();
        names.extend(page.classes.into_iter().map(|class| class.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c", "researcher"]);
    let bad = run::ListClassesRequest {
        page_size: 0,
        page_token: "../".to_owned(),
    };
    refused(
        client.list_classes(bad).await,
        Code::InvalidArgument,
        "malformed page token",
    );
}
