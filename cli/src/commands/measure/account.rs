//! The user whose reach is looked at.

use std::ffi::CString;

use nix::unistd::{Gid, Uid, User as Account, getgrouplist};
use vouchsafe_launch::User;

use crate::error::CliError;

/// A user by name, by uid, or by uid and gid. One that the host knows has the groups that the host says.
pub(super) fn of(text: &str) -> Result<User, CliError> {
    let user = match text.split_once(':') {
        Some((uid, gid)) => User {
            uid: number(text, uid)?,
            gid: number(text, gid)?,
            groups: Vec::new(),
        },
        None => known(text)?,
    };
    if user.uid == 0 {
        let text = "uid 0 can change every file: name the user that runs have (`--user`)";
        return Err(CliError::Invalid(text.to_owned()));
    }
    Ok(user)
}

fn number(text: &str, part: &str) -> Result<u32, CliError> {
    let wrong = |_| CliError::Invalid(format!("`{text}` is no user: write a name, `UID` or `UID:GID`"));
    part.parse().map_err(wrong)
}

fn known(text: &str) -> Result<User, CliError> {
    let unknown = |errno: nix::errno::Errno| CliError::Stdio {
        what: "the list of users",
        source: errno.into(),
    };
    let uid: Option<u32> = text.parse().ok();
    let account = match uid {
        Some(uid) => Account::from_uid(Uid::from_raw(uid)),
        None => Account::from_name(text),
    };
    match (account.map_err(unknown)?, uid) {
        (Some(account), _) => {
            let name = CString::new(account.name)
                .map_err(|_| CliError::Invalid(format!("the name of user `{text}` holds a NUL byte")))?;
            let groups = getgrouplist(&name, account.gid).map_err(unknown)?;
            Ok(User {
                uid: account.uid.as_raw(),
                gid: account.gid.as_raw(),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
            })
        }
        // As a run of a pool has it.
        (None, Some(uid)) => Ok(User {
            uid,
            gid: uid,
            groups: Vec::new(),
        }),
        (None, None) => Err(CliError::Invalid(format!(
            "there is no user `{text}` on this host: write a name, `UID` or `UID:GID`"
        ))),
    }
}
