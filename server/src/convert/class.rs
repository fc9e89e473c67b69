//! Classes as messages.

use vouchsafe_identity::{ClassName, Sha256, SpiffeId};
use vouchsafe_proto::vouchsafe::run::v1 as proto;
use vouchsafe_store::Class;
use vouchsafe_store::class::{
    ClassNodes, ClassSpec, Code, FileRole, Harden, Inherit, Isolation, LauncherRule, MeasuredFile, Model,
    Offline, OnEnd, Program, RunUser, SvidPolicy,
};

use super::ConvertError;
use crate::usecases::classes::{DEFAULT_MAX_RUNS, DEFAULT_MAX_TTL_SECONDS, DEFAULT_OFFLINE_FOR_SECONDS};

/// A class's name.
pub fn name(text: &str) -> Result<ClassName, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::Missing("class"));
    }
    Ok(ClassName::new(text)?)
}

/// What an operator says of a class.
pub fn spec(message: Option<proto::ClassSpec>) -> Result<ClassSpec, ConvertError> {
    let message = message.ok_or(ConvertError::Missing("spec"))?;
    if message.any_node && !message.nodes.is_empty() {
        return Err(ConvertError::Both("any_node", "nodes"));
    }
    let nodes = message.nodes.iter().map(|id| spiffe_id("nodes", id));
    let launchers = message.launchers.iter().map(|text| LauncherRule::new(text));
    Ok(ClassSpec {
        program: program(message.program.ok_or(ConvertError::Missing("program"))?)?,
        files: message
            .files
            .into_iter()
            .map(|named| file("files", named))
            .collect::<Result<_, _>>()?,
        user: user(message.user),
        env_allow: message.env_allow,
        nodes: match message.any_node {
            true => ClassNodes::Any,
            false => ClassNodes::These(nodes.collect::<Result<_, _>>()?),
        },
        launchers: launchers.collect::<Result<_, _>>()?,
        max_ttl_seconds: or(message.max_ttl_seconds, DEFAULT_MAX_TTL_SECONDS),
        max_runs: or(message.max_runs, DEFAULT_MAX_RUNS),
        svids: SvidPolicy {
            x509_ttl_seconds: message.x509_svid_ttl_seconds,
            jwt_ttl_seconds: message.jwt_svid_ttl_seconds,
            inherit: inherit(message.inherit)?,
            claims_audiences: message.claims_audiences,
            class_sub_audiences: message.class_sub_audiences,
        },
        isolation: isolation(message.isolation)?,
        allow_mutable_files: message.allow_mutable_files,
        on_end: match proto::OnEnd::try_from(message.on_end) {
            Ok(proto::OnEnd::Unspecified | proto::OnEnd::Kill) => OnEnd::Kill,
            Ok(proto::OnEnd::Leave) => OnEnd::Leave,
            Err(_) => return Err(unknown("on_end", message.on_end)),
        },
        harden: harden(message.harden.unwrap_or_default())?,
        disabled: message.disabled,
        model: message.model.map(|model| Model {
            argument: model.argument,
            allowed: model.allowed,
        }),
        offline: offline(message.offline_runs, message.offline_for_seconds)?,
        description: message.description,
    })
}

fn offline(runs: u32, for_seconds: u32) -> Result<Option<Offline>, ConvertError> {
    match (runs, for_seconds) {
        (0, 0) => Ok(None),
        (0, _) => Err(ConvertError::Missing("offline_runs")),
        (runs, for_seconds) => Ok(Some(Offline {
            runs,
            for_seconds: or(for_seconds, DEFAULT_OFFLINE_FOR_SECONDS),
        })),
    }
}

fn program(message: proto::Program) -> Result<Program, ConvertError> {
    let executable = message
        .executable
        .ok_or(ConvertError::Missing("program.executable"))?;
    let module_file = message
        .module_file
        .map(|named| file("program.module_file", named));
    let code = match (message.script, message.module) {
        (Some(_), module) if !module.is_empty() => {
            return Err(ConvertError::Both("program.script", "program.module"));
        }
        (Some(script), _) => Some(Code::Script(file("program.script", script)?)),
        (None, module) if !module.is_empty() => Some(Code::Module {
            name: module,
            file: module_file.transpose()?,
        }),
        (None, _) if module_file.is_some() => return Err(ConvertError::Missing("program.module")),
        (None, _) => None,
    };
    Ok(Program {
        executable: file("program.executable", executable)?,
        code,
        fixed_args: message.fixed_args,
        extra_args: message.extra_args,
    })
}

fn file(field: &'static str, message: proto::MeasuredFile) -> Result<MeasuredFile, ConvertError> {
    if message.path.is_empty() || message.sha256.is_empty() {
        return Err(ConvertError::Missing(field));
    }
    let role = match proto::FileRole::try_from(message.role) {
        Ok(proto::FileRole::Unspecified) => None,
        Ok(proto::FileRole::Lock) => Some(FileRole::Lock),
        Ok(proto::FileRole::Record) => Some(FileRole::Record),
        Ok(proto::FileRole::Prompt) => Some(FileRole::Prompt),
        Ok(proto::FileRole::Tools) => Some(FileRole::Tools),
        Ok(proto::FileRole::Skill) => Some(FileRole::Skill),
        Ok(proto::FileRole::Model) => Some(FileRole::Model),
        Ok(proto::FileRole::Other) => Some(FileRole::Other),
        Err(_) => return Err(unknown("role", message.role)),
    };
    Ok(MeasuredFile {
        path: message.path,
        sha256: Sha256::new(&message.sha256)?,
        role,
    })
}

fn user(message: Option<proto::RunUser>) -> RunUser {
    match message.and_then(|user| user.user) {
        None => RunUser::Caller,
        Some(proto::run_user::User::Fixed(fixed)) => RunUser::Fixed {
            uid: fixed.uid,
            gid: fixed.gid,
        },
        Some(proto::run_user::User::Pool(pool)) => RunUser::Pool {
            first_uid: pool.first_uid,
            last_uid: pool.last_uid,
        },
    }
}

fn harden(message: proto::Harden) -> Result<Harden, ConvertError> {
    let ports = |field, held: bool, ports: Vec<u32>| {
        let port = |port: u32| {
            u16::try_from(port).map_err(|_| ConvertError::Range {
                field,
                value: port.into(),
            })
        };
        let ports: Vec<u16> = ports.into_iter().map(port).collect::<Result<_, _>>()?;
        match held {
            true => Ok(Some(ports)),
            false if ports.is_empty() => Ok(None),
            false => Err(ConvertError::Missing(field)),
        }
    };
    Ok(Harden {
        no_new_privs: message.no_new_privs,
        read_paths: message.read_paths,
        write_paths: message.write_paths,
        connect_ports: ports("harden.hold_connect", message.hold_connect, message.connect_ports)?,
        bind_ports: ports("harden.hold_bind", message.hold_bind, message.bind_ports)?,
    })
}

/// What children get.
fn inherit(value: i32) -> Result<Inherit, ConvertError> {
    match proto::Inherit::try_from(value) {
        Ok(proto::Inherit::Unspecified | proto::Inherit::None) => Ok(Inherit::None),
        Ok(proto::Inherit::Children) => Ok(Inherit::Children),
        Ok(proto::Inherit::Derived) => Ok(Inherit::Derived),
        Err(_) => Err(unknown("inherit", value)),
    }
}

/// What keeps children out.
pub fn isolation(value: i32) -> Result<Isolation, ConvertError> {
    match proto::Isolation::try_from(value) {
        Ok(proto::Isolation::Unspecified | proto::Isolation::Process) => Ok(Isolation::Process),
        Ok(proto::Isolation::None) => Ok(Isolation::None),
        Err(_) => Err(unknown("isolation", value)),
    }
}

/// What keeps children out, as a message has it.
pub fn isolation_message(isolation: Isolation) -> i32 {
    match isolation {
        Isolation::Process => proto::Isolation::Process.into(),
        Isolation::None => proto::Isolation::None.into(),
    }
}

fn unknown(field: &'static str, value: i32) -> ConvertError {
    ConvertError::Unknown { field, value }
}

fn spiffe_id(field: &'static str, text: &str) -> Result<SpiffeId, ConvertError> {
    SpiffeId::new(text).map_err(|source| ConvertError::SpiffeId { field, source })
}

fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

/// A class as a message has it.
pub fn message(class: &Class, live_runs: usize) -> proto::Class {
    proto::Class {
        name: class.name.to_string(),
        id: class.id.to_string(),
        version: class.version,
        spec: Some(spec_message(&class.spec)),
        created_at: class.created_at.unix_timestamp(),
        updated_at: class.updated_at.unix_timestamp(),
        live_runs: u32::try_from(live_runs).unwrap_or(u32::MAX),
    }
}

fn spec_message(spec: &ClassSpec) -> proto::ClassSpec {
    let (any_node, nodes) = match &spec.nodes {
        ClassNodes::Any => (true, Vec::new()),
        ClassNodes::These(nodes) => (false, nodes.iter().map(ToString::to_string).collect()),
    };
    proto::ClassSpec {
        description: spec.description.clone(),
        program: Some(program_message(&spec.program)),
        files: spec.files.iter().map(file_message).collect(),
        user: user_message(spec.user),
        env_allow: spec.env_allow.clone(),
        nodes,
        any_node,
        launchers: spec.launchers.iter().map(ToString::to_string).collect(),
        max_ttl_seconds: spec.max_ttl_seconds,
        max_runs: spec.max_runs,
        x509_svid_ttl_seconds: spec.svids.x509_ttl_seconds,
        jwt_svid_ttl_seconds: spec.svids.jwt_ttl_seconds,
        inherit: match spec.svids.inherit {
            Inherit::None => proto::Inherit::None.into(),
            Inherit::Children => proto::Inherit::Children.into(),
            Inherit::Derived => proto::Inherit::Derived.into(),
        },
        isolation: isolation_message(spec.isolation),
        allow_mutable_files: spec.allow_mutable_files,
        on_end: match spec.on_end {
            OnEnd::Kill => proto::OnEnd::Kill.into(),
            OnEnd::Leave => proto::OnEnd::Leave.into(),
        },
        claims_audiences: spec.svids.claims_audiences.clone(),
        class_sub_audiences: spec.svids.class_sub_audiences.clone(),
        harden: Some(harden_message(&spec.harden)),
        disabled: spec.disabled,
        offline_runs: spec.offline.map_or(0, |offline| offline.runs),
        offline_for_seconds: spec.offline.map_or(0, |offline| offline.for_seconds),
        model: spec.model.as_ref().map(|model| proto::Model {
            argument: model.argument.clone(),
            allowed: model.allowed.clone(),
        }),
    }
}

fn program_message(program: &Program) -> proto::Program {
    let (script, module, module_file) = match &program.code {
        None => (None, String::new(), None),
        Some(Code::Script(script)) => (Some(file_message(script)), String::new(), None),
        Some(Code::Module { name, file }) => (None, name.clone(), file.as_ref().map(file_message)),
    };
    proto::Program {
        executable: Some(file_message(&program.executable)),
        script,
        module,
        module_file,
        fixed_args: program.fixed_args.clone(),
        extra_args: program.extra_args,
    }
}

fn file_message(file: &MeasuredFile) -> proto::MeasuredFile {
    let role = match file.role {
        None => proto::FileRole::Unspecified,
        Some(FileRole::Lock) => proto::FileRole::Lock,
        Some(FileRole::Record) => proto::FileRole::Record,
        Some(FileRole::Prompt) => proto::FileRole::Prompt,
        Some(FileRole::Tools) => proto::FileRole::Tools,
        Some(FileRole::Skill) => proto::FileRole::Skill,
        Some(FileRole::Model) => proto::FileRole::Model,
        Some(_) => proto::FileRole::Other,
    };
    proto::MeasuredFile {
        path: file.path.clone(),
        sha256: file.sha256.to_string(),
        role: role.into(),
    }
}

fn user_message(user: RunUser) -> Option<proto::RunUser> {
    let user = match user {
        RunUser::Caller => return None,
        RunUser::Fixed { uid, gid } => proto::run_user::User::Fixed(proto::run_user::Fixed { uid, gid }),
        RunUser::Pool { first_uid, last_uid } => {
            proto::run_user::User::Pool(proto::run_user::Pool { first_uid, last_uid })
        }
    };
    Some(proto::RunUser { user: Some(user) })
}

fn harden_message(harden: &Harden) -> proto::Harden {
    let ports = |ports: &Option<Vec<u16>>| ports.iter().flatten().copied().map(u32::from).collect();
    proto::Harden {
        no_new_privs: harden.no_new_privs,
        read_paths: harden.read_paths.clone(),
        write_paths: harden.write_paths.clone(),
        hold_connect: harden.connect_ports.is_some(),
        connect_ports: ports(&harden.connect_ports),
        hold_bind: harden.bind_ports.is_some(),
        bind_ports: ports(&harden.bind_ports),
    }
}
