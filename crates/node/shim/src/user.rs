//! Who runs a program: names looked up in the container's own `/etc/passwd` and `/etc/group`, opened below its root.

use std::os::fd::BorrowedFd;
use std::path::Path;

use skiff_linux::path::read_in_root;
use skiff_shim::protocol::User;

/// Larger files of this kind are an attack.
const LIMIT: u64 = 1 << 20;
/// The kernel's ids are 32 bit, `-1` among them means "leave as is"; as runc, only the positive half is taken.
const MAX_ID: u32 = i32::MAX as u32;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A whole number in range; `None` if it is not a number at all.
fn id(text: &str) -> Option<Result<u32, String>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(format!("uids and gids must be in range 0-{MAX_ID}: {text:?}")),
    })
}

fn lines(root: BorrowedFd<'_>, path: &str) -> Vec<Vec<String>> {
    // An image without the file, or with a broken one, has no names; a name then asked for is an error.
    let text = read_in_root(root, Path::new(path), LIMIT).ok().flatten().unwrap_or_default();
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn number(fields: &[String], index: usize) -> Option<u32> {
    fields.get(index)?.parse().ok().filter(|id| *id <= MAX_ID)
}

pub(crate) fn resolve(root: BorrowedFd<'_>, user: &User) -> Result<Identity, String> {
    let (name, group) = user.user.split_once(':').map_or((user.user.as_str(), ""), |(name, group)| (name, group));
    let name = if name.is_empty() { "0" } else { name };
    let passwd = lines(root, "/etc/passwd");
    let numeric = id(name).transpose()?;
    let entry = passwd.iter().find(|fields| match numeric {
        Some(uid) => number(fields, 2) == Some(uid),
        None => fields.first().is_some_and(|field| field == name),
    });
    let uid = match (numeric, entry) {
        (Some(uid), _) => uid,
        (None, Some(fields)) => number(fields, 2).ok_or_else(|| format!("user {name:?} has no valid uid"))?,
        (None, None) => return Err(format!("unable to find user {name}: no matching entries in passwd file")),
    };
    let groups_file = lines(root, "/etc/group");
    let gid = if let Some(gid) = user.group {
        gid
    } else if group.is_empty() {
        entry.and_then(|fields| number(fields, 3)).unwrap_or(0)
    } else if let Some(gid) = id(group) {
        gid?
    } else {
        let entry = groups_file.iter().find(|fields| fields.first().is_some_and(|field| field == group));
        entry
            .and_then(|fields| number(fields, 2))
            .ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))?
    };
    let mut groups = vec![gid];
    if !user.strict_groups
        && let Some(user_name) = entry.and_then(|fields| fields.first())
    {
        for fields in &groups_file {
            let member = fields.get(3).is_some_and(|members| members.split(',').any(|member| member == user_name));
            groups.extend(number(fields, 2).filter(|_| member));
        }
    }
    groups.extend(&user.groups);
    groups.sort_unstable();
    groups.dedup();
    if [uid, gid].iter().chain(&groups).any(|id| *id > MAX_ID) {
        return Err(format!("uids and gids must be in range 0-{MAX_ID}"));
    }
    let home = entry.and_then(|fields| fields.get(5)).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home: home.cloned().unwrap_or_else(|| "/".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_and_numbers() {
        let dir = std::env::temp_dir().join(format!("skiff-user-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        std::fs::write(
            dir.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:\nbig:x:4294967295:0::/:\n",
        )
        .unwrap();
        std::fs::write(dir.join("etc/group"), "disk:x:6:web,other\nstaff:x:50:\n").unwrap();
        let root = std::fs::File::open(&dir).unwrap();
        let as_user = |user: &str, strict: bool| {
            let user = User { user: user.into(), strict_groups: strict, groups: vec![7], ..User::default() };
            resolve(root.as_fd(), &user)
        };
        let web = as_user("web", false).unwrap();
        assert_eq!((web.uid, web.gid, web.groups, web.home.as_str()), (33, 34, vec![6, 7, 34], "/srv"));
        assert_eq!(as_user("33", true).unwrap().groups, [7, 34]);
        assert_eq!(as_user("1000:staff", false).unwrap().gid, 50);
        assert_eq!(as_user("", false).unwrap().uid, 0);
        for wrong in ["2147483648", "4294967296", "-1", "nobody", "web:none", "big", "0:4294967295"] {
            assert!(as_user(wrong, false).is_err(), "{wrong}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
