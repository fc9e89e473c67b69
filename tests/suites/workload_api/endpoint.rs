//! SPIFFE Workload Endpoint: where it listens, what a request must carry, what must not be asked of a caller.

use std::collections::HashSet;
use std::process::Stdio;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorProto;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use vouchsafe_proto::workload::X509BundlesRequest;
use vouchsafe_tests::clients::endpoint;
use vouchsafe_tests::daemons::{Daemon, Deployment, binary};
use vouchsafe_tests::workload::{self, Header, SECURITY_HEADER};

use super::{OWN, RESEARCHER, deployment, refused_with, with_researcher};

/// The methods that the standard names, and no others.
const METHODS: [&str; 7] = [
    "FetchJWTBundles",
    "FetchJWTSVID",
    "FetchWITBundles",
    "FetchWITSVID",
    "FetchX509Bundles",
    "FetchX509SVID",
    "ValidateJWTSVID",
];

/// Calls any method with an empty message; the answer's content is of no interest.
async fn call(channel: &Channel, path: &str, headers: &[&'static str]) -> Result<(), Status> {
    let mut request = Request::new(());
    for value in headers {
        request
            .metadata_mut()
            .append(SECURITY_HEADER, MetadataValue::from_static(value));
    }
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let codec = ProstCodec::<(), ()>::default();
    let answer = grpc
        .server_streaming(request, path.parse().unwrap(), codec)
        .await?;
    workload::next(&mut answer.into_inner()).await
}

/// Every method that is served on the workload socket, by its path, and one that is not.
fn paths() -> Vec<String> {
    let pool = DescriptorPool::decode(vouchsafe_proto::FILE_DESCRIPTOR_SET).unwrap();
    let served = ["SpiffeWorkloadAPI", "vouchsafe.workload.v1.WorkloadInfo"];
    let paths: Vec<String> = served
        .iter()
        .map(|name| pool.get_service_by_name(name).unwrap())
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            let path = move |method: prost_reflect::MethodDescriptor| format!("/{name}/{}", method.name());
            service.methods().map(path).collect::<Vec<_>>()
        })
        .collect();
    assert!(paths.len() > METHODS.len());
    let others = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/unknown.Service/Method",
    ];
    paths.into_iter().chain(others.map(str::to_owned)).collect()
}

#[tokio::test]
async fn workload_endpoint_3_requests_without_the_header_must_be_rejected() {
    let (deployment, _) = with_researcher().await;
    let channel = workload::channel(&deployment.workload_socket()).await.unwrap();
    let wrong: [&[&'static str]; 9] = [
        &[],
        &[""],
        &["True"],
        &["TRUE"],
        &["1"],
        &["false"],
        &["true", "true"],
        &["true", "false"],
        &["true,true"],
    ];
    for path in paths() {
        for headers in wrong {
            let message = refused_with(call(&channel, &path, headers).await, Code::InvalidArgument);
            assert!(
                message.contains("security header"),
                "{path} {headers:?}: {message}"
            );
        }
        // With it, whatever is said is about something else.
        if let Err(status) = call(&channel, &path, &["true"]).await {
            assert!(!status.message().contains("security header"), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn workload_endpoint_3_the_header_must_not_be_taken_under_another_name() {
    let deployment = deployment().await;
    let channel = workload::channel(&deployment.workload_socket()).await.unwrap();
    let mut request = Request::new(X509BundlesRequest {});
    for name in [
        "workload-spiffe-io",
        "x-workload.spiffe.io",
        "workload.spiffe.io.x",
    ] {
        request
            .metadata_mut()
            .insert(name, MetadataValue::from_static("true"));
    }
    let mut api =
        vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
    let answer = api.fetch_x509_bundles(request).await;
    assert!(refused_with(answer, Code::InvalidArgument).contains("security header"));
}

#[tokio::test]
async fn workload_endpoint_3_must_be_served_over_grpc_without_tls_or_credentials() {
    let (_deployment, api) = with_researcher().await;
    // The client of these tests speaks plain HTTP/2, shows no certificate and sends nothing but the header.
    let message = super::served(&api, 1).await;
    assert_eq!(message.svids[0].spiffe_id, RESEARCHER);
}

#[tokio::test]
async fn workload_endpoint_3_must_not_be_served_over_tcp() {
    let deployment = deployment().await;
    let agent = listening(deployment.agent.as_ref().unwrap());
    assert!(agent.is_empty(), "{agent:?}");
    // The server does listen: the look is one that finds.
    assert!(!listening(deployment.server.as_ref().unwrap()).is_empty());
}

/// The TCP sockets on which a daemon listens.
fn listening(daemon: &Daemon) -> Vec<String> {
    let process = format!("/proc/{}", daemon.pid().unwrap());
    let mut inodes = HashSet::new();
    for family in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("{process}/net/{family}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN.
            if columns[3] == "0A" {
                inodes.insert(format!("socket:[{}]", columns[9]));
            }
        }
    }
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .map(|link| link.display().to_string())
        .filter(|link| inodes.contains(link))
        .collect()
}

/// What the command line says with `SPIFFE_ENDPOINT_SOCKET`, and with flags.
async fn cli(variable: Option<&str>, flags: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(binary("vouchsafe").unwrap());
    command.args(["svid", "x509", "--output", "json"]).args(flags);
    command
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(value) = variable {
        command.env("SPIFFE_ENDPOINT_SOCKET", value);
    }
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn workload_endpoint_4_the_command_line_must_fall_back_to_the_environment() {
    let (deployment, _api) = with_researcher().await;
    let (path, socket) = (
        deployment.workload_socket(),
        endpoint(&deployment.workload_socket()),
    );
    let (good, said) = cli(Some(&socket), &[]).await;
    assert!(good && said.contains(RESEARCHER), "{said}");
    // What is given explicitly goes first.
    let flag = path.display().to_string();
    let (good, said) = cli(Some("unix:///nowhere.sock"), &["--workload-socket", &flag]).await;
    assert!(good, "{said}");
    let (good, said) = cli(Some("unix:///nowhere.sock"), &[]).await;
    assert!(!good && said.contains("/nowhere.sock"), "{said}");
    for wrong in [
        format!("http://{flag}"),
        format!("unix://host{flag}"),
        format!("{socket}?x=y"),
        "unix:a.sock".to_owned(),
    ] {
        let (good, said) = cli(Some(&wrong), &[]).await;
        assert!(!good && said.contains("unix:///path"), "{wrong}: {said}");
    }
}

#[tokio::test]
async fn workload_endpoint_3_the_command_line_must_send_the_header() {
    let (deployment, _api) = with_researcher().await;
    for command in [
        &["svid", "x509"][..],
        &["svid", "jwt", "--audience", "reports"],
        &["svid", "watch", "--updates", "1"],
        &["explain"],
    ] {
        let answer = deployment.json(command).await.unwrap().to_string();
        assert!(answer.contains(RESEARCHER), "{command:?}: {answer}");
    }
}

/// Asks the endpoint about itself.
async fn reflected(deployment: &Deployment, question: MessageRequest) -> MessageResponse {
    let channel = workload::channel(&deployment.workload_socket()).await.unwrap();
    let mut client = ServerReflectionClient::with_interceptor(channel, Header);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer: ServerReflectionResponse = answers.into_inner().next().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

#[tokio::test]
async fn workload_endpoint_7_the_workload_api_must_be_there_and_must_not_be_extended() {
    let deployment = deployment().await;
    let question = MessageRequest::ListServices(String::new());
    let MessageResponse::ListServicesResponse(list) = reflected(&deployment, question).await else {
        panic!("a list of services")
    };
    let mut services: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    services.sort();
    assert!(services.contains(&"SpiffeWorkloadAPI".to_owned()), "{services:?}");
    // What is ours stands in services of our own name.
    let known = |name: &String| {
        let own = ["SpiffeWorkloadAPI"].contains(&name.as_str());
        own || name.starts_with("vouchsafe.workload.") || name.starts_with("grpc.")
    };
    assert!(services.iter().all(known), "{services:?}");
    let question = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflected(&deployment, question).await else {
        panic!("a file")
    };
    let files = files
        .file_descriptor_proto
        .iter()
        .map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap());
    let mut methods: Vec<String> = files
        .flat_map(|file| file.service)
        .filter(|service| service.name() == "SpiffeWorkloadAPI")
        .flat_map(|service| service.method)
        .map(|method| method.name().to_owned())
        .collect();
    methods.sort();
    assert_eq!(methods, METHODS);
}

#[tokio::test]
async fn workload_endpoint_6_a_caller_without_identity_is_denied_on_every_method() {
    let deployment = deployment().await;
    let mut api = workload::connect(&deployment.workload_socket()).await.unwrap();
    let svids = api
        .fetch_x509svid(vouchsafe_proto::workload::X509svidRequest {})
        .await;
    let denied = match svids {
        Ok(stream) => workload::next(&mut stream.into_inner()).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert!(refused_with(denied, Code::PermissionDenied).contains("no identity issued"));
    let jwt = vouchsafe_proto::workload::JwtsvidRequest {
        audience: vec![OWN.to_owned()],
        spiffe_id: String::new(),
    };
    let denied = refused_with(api.fetch_jwtsvid(jwt).await, Code::PermissionDenied);
    assert!(denied.contains("no identity issued"), "{denied}");
    for path in [
        "/SpiffeWorkloadAPI/FetchX509Bundles",
        "/SpiffeWorkloadAPI/FetchJWTBundles",
    ] {
        let channel = workload::channel(&deployment.workload_socket()).await.unwrap();
        refused_with(call(&channel, path, &["true"]).await, Code::PermissionDenied);
    }
}

#[tokio::test]
async fn workload_api_7_wit_methods_must_answer_unimplemented() {
    let (deployment, _api) = with_researcher().await;
    let channel = workload::channel(&deployment.workload_socket()).await.unwrap();
    for method in ["FetchWITSVID", "FetchWITBundles"] {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        refused_with(call(&channel, &path, &["true"]).await, Code::Unimplemented);
    }
}
