//! Settings of the kernel, by their files under `/proc/sys`: there a link's name
//! is a directory and may contain dots.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::HostError;
use crate::lease::{InterfaceName, PortSet};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const LOCAL_RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const LINKS: &str = "/proc/sys/net/ipv4/conf";
const ON: &str = "1";
const OFF: &str = "0";

/// Lets packets from 127.0.0.0/8 be routed out by this link and their replies
/// in, which `127.0.0.1:PORT` on the host needs. It stays so while the link
/// exists; the `guard` of the ruleset keeps packets of others out.
pub fn enable_route_localnet(link: &InterfaceName) -> Result<(), HostError> {
    let path = route_localnet(link.as_str());
    // /proc/sys may be read-only where somebody else has set it already.
    if read(&path)?.trim_end() == ON {
        return Ok(());
    }
    fs::write(&path, ON).map_err(|source| HostError::Write { path, value: ON, source })
}

/// Whether packets from 127.0.0.0/8 may leave by this link; none when there is no
/// such link.
pub fn has_route_localnet(link: &InterfaceName) -> Result<Option<bool>, HostError> {
    let path = route_localnet(link.as_str());
    Ok(read_if_there(&path)?.map(|value| value.trim_end() != OFF))
}

/// Takes back what [`enable_route_localnet`] has done. A link that is gone is fine.
pub fn forget_route_localnet(link: &InterfaceName) -> Result<(), HostError> {
    if has_route_localnet(link)? != Some(true) {
        return Ok(());
    }
    let path = route_localnet(link.as_str());
    fs::write(&path, OFF).map_err(|source| HostError::Write { path, value: OFF, source })
}

/// The links by which packets from 127.0.0.0/8 may leave, sorted; not those that
/// may because all may.
pub fn links_with_route_localnet() -> Result<Vec<InterfaceName>, HostError> {
    let path = Path::new(LINKS);
    let failed = |source| HostError::Read { path: path.to_owned(), source };
    let mut links = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let link = name.to_str().filter(|name| !["all", "default"].contains(name));
        let Some(link) = link.and_then(|name| name.parse().ok()) else { continue };
        if has_route_localnet(&link)? == Some(true) {
            links.push(link);
        }
    }
    links.sort();
    Ok(links)
}

fn route_localnet(link: &str) -> PathBuf {
    Path::new(LINKS).join(link).join("route_localnet")
}

/// What `/proc/sys/<key>` says, without the blanks around it; none when the kernel
/// does not have it, perhaps because a module is not loaded.
pub fn setting(key: &str) -> Result<Option<String>, HostError> {
    let value = read_if_there(&Path::new("/proc/sys").join(key))?;
    Ok(value.map(|value| value.trim().to_owned()))
}

/// The tables that iptables-legacy has made, of both families; none where the kernel
/// does not have it.
pub fn legacy_tables() -> Result<Vec<String>, HostError> {
    let mut tables = Vec::new();
    for (family, file) in [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")] {
        let names = read_if_there(&Path::new("/proc/net").join(file))?.unwrap_or_default();
        tables.extend(names.lines().map(|name| format!("{family} {name}")));
    }
    Ok(tables)
}

/// The ports that the node's operator keeps from being given out.
pub fn local_reserved_ports() -> Result<PortSet, HostError> {
    let path = Path::new(LOCAL_RESERVED_PORTS);
    read(path)?.parse().map_err(|source| HostError::Ports { path: path.to_owned(), source })
}

/// The ports that the kernel gives to connections and sockets without one of
/// their own, but for those that are reserved.
pub fn ephemeral_ports() -> Result<PortSet, HostError> {
    let path = Path::new(LOCAL_PORT_RANGE);
    // Two numbers with blanks around them.
    let range = read(path)?.split_whitespace().collect::<Vec<_>>().join("-");
    let range: PortSet =
        range.parse().map_err(|source| HostError::Ports { path: path.to_owned(), source })?;
    Ok(range.without(&local_reserved_ports()?))
}

/// What tells this boot from every other one.
pub fn boot_id() -> Result<String, HostError> {
    Ok(read(Path::new(BOOT_ID))?.trim_end().to_owned())
}

fn read_if_there(path: &Path) -> Result<Option<String>, HostError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(|source| HostError::Read { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::namespace::{private, run};

    #[test]
    fn route_localnet_is_enabled_once_and_for_one_link() {
        private(|| {
            run("ip link add cni-0.1 type bridge");
            let (link, file) =
                ("cni-0.1".parse().unwrap(), "/proc/sys/net/ipv4/conf/cni-0.1/route_localnet");
            enable_route_localnet(&link).unwrap();
            enable_route_localnet(&link).unwrap();
            assert_eq!(fs::read_to_string(file).unwrap(), "1\n");
            assert_eq!(fs::read_to_string(format!("{LINKS}/all/route_localnet")).unwrap(), "0\n");
            assert_eq!(links_with_route_localnet().unwrap(), std::slice::from_ref(&link));
            forget_route_localnet(&link).unwrap();
            forget_route_localnet(&link).unwrap();
            assert_eq!(has_route_localnet(&link).unwrap(), Some(false));
            assert_eq!(links_with_route_localnet().unwrap(), []);
            let absent = "absent0".parse().unwrap();
            assert_eq!(has_route_localnet(&absent).unwrap(), None);
            forget_route_localnet(&absent).unwrap();
            let error = enable_route_localnet(&"absent0".parse().unwrap()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "cannot read /proc/sys/net/ipv4/conf/absent0/route_localnet"
            );
        });
    }

    #[test]
    fn reserved_ports_are_read() {
        private(|| {
            assert!(local_reserved_ports().unwrap().is_empty());
            fs::write(LOCAL_RESERVED_PORTS, "8080,9000-9010").unwrap();
            assert_eq!(local_reserved_ports().unwrap().to_string(), "8080,9000-9010");
        });
    }

    #[test]
    fn reserved_ports_are_not_ephemeral() {
        private(|| {
            fs::write(LOCAL_PORT_RANGE, "40000 40999").unwrap();
            assert_eq!(ephemeral_ports().unwrap().to_string(), "40000-40999");
            fs::write(LOCAL_RESERVED_PORTS, "40100-40999").unwrap();
            assert_eq!(ephemeral_ports().unwrap().to_string(), "40000-40099");
        });
    }

    #[test]
    fn a_boot_has_an_id() {
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
