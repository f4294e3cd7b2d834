//! Who a container's process is: the image's and the pod's wishes against the root's `/etc/passwd` and `/etc/group`. Pure.

use crate::runtime::spec::UserSpec;

/// Numbers and home of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Resolves `spec` against the text of the two files; either may be empty.
pub(super) fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, image_group) = match spec.image.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec.image.as_str(), None),
    };
    let user = spec.run_as_user.map_or_else(|| user.to_owned(), |uid| uid.to_string());
    let entry = match (user.as_str(), user.parse::<u32>()) {
        ("", _) => find(passwd, 7, |fields| fields[2] == "0"),
        (_, Ok(_)) => find(passwd, 7, |fields| fields[2] == user),
        (name, Err(_)) => {
            let entry = find(passwd, 7, |fields| fields[0] == name);
            Some(entry.ok_or_else(|| format!("user \"{name}\" is not in the image's /etc/passwd"))?)
        }
    };
    let uid = match (&entry, user.as_str()) {
        (_, "") => 0,
        (Some(entry), _) => number(entry[2])?,
        (None, user) => number(user)?,
    };
    let gid = match (spec.run_as_group, image_group) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user.
        (None, Some(name)) if spec.run_as_user.is_none() => group_id(name, group)?,
        _ => entry.as_ref().map_or(Ok(0), |entry| number(entry[3]))?,
    };
    let groups = entry
        .as_ref()
        .map(|entry| memberships(entry[0], group))
        .unwrap_or_default();
    let home = entry.map(|entry| entry[5].to_owned()).filter(|home| !home.is_empty());
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.unwrap_or_else(|| "/".to_owned()),
    })
}

fn find<'a>(text: &'a str, width: usize, wanted: impl Fn(&[&'a str]) -> bool) -> Option<Vec<&'a str>> {
    let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines
        .filter(|fields| fields.len() >= width)
        .find(|fields| wanted(fields))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not a user or group number"))
}

fn group_id(name: &str, group: &str) -> Result<u32, String> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let entry = find(group, 3, |fields| fields[0] == name);
    number(entry.ok_or_else(|| format!("group \"{name}\" is not in the image's /etc/group"))?[2])
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member = lines.filter(|fields| fields.len() >= 4 && fields[3].split(',').any(|member| member == user));
    member.filter_map(|fields| fields[2].parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/www:/bin/false\nbroken line\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\nmail:x:8:other\n";

    fn user(image: &str, uid: Option<u32>, gid: Option<u32>) -> UserSpec {
        UserSpec {
            image: image.to_owned(),
            run_as_user: uid,
            run_as_group: gid,
        }
    }

    fn numbers(spec: &UserSpec) -> (u32, u32, Vec<u32>, String) {
        let identity = resolve(spec, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups, identity.home)
    }

    #[test]
    fn every_form_is_understood() {
        let web = |gid| (33, gid, vec![40], "/srv/www".to_owned());
        for (spec, want) in [
            (user("", None, None), (0, 0, vec![], "/root".to_owned())),
            (user("web", None, None), web(34)),
            (user("33", None, None), web(34)),
            (user("web:logs", None, None), web(40)),
            (user("web:99", None, None), web(99)),
            (user("1234", None, None), (1234, 0, vec![], "/".to_owned())),
            (user("1234:5", None, None), (1234, 5, vec![], "/".to_owned())),
            (user("web", Some(0), None), (0, 0, vec![], "/root".to_owned())),
            (user("root:www", Some(33), None), web(34)),
            (user("web", None, Some(7)), web(7)),
        ] {
            assert_eq!(numbers(&spec), want, "{spec:?}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        let error = |spec| resolve(&spec, PASSWD, GROUP).unwrap_err();
        assert_eq!(
            error(user("nobody", None, None)),
            "user \"nobody\" is not in the image's /etc/passwd"
        );
        assert_eq!(
            error(user("web:staff", None, None)),
            "group \"staff\" is not in the image's /etc/group"
        );
        assert_eq!(resolve(&user("", None, None), "", "").unwrap().home, "/");
    }
}
