//! Settings of the kernel, by their files under `/proc/sys`: there a link's name
//! is a directory and may contain dots.

use std::{fs, path::Path};

use super::HostError;
use crate::lease::{InterfaceName, PortSet};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const LOCAL_RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const LINKS: &str = "/proc/sys/net/ipv4/conf";

/// Lets packets from 127.0.0.0/8 be routed out by this link and their replies
/// in, which `127.0.0.1:PORT` on the host needs. It stays so while the link
/// exists; the `guard` of the ruleset keeps packets of others out.
pub fn enable_route_localnet(link: &InterfaceName) -> Result<(), HostError> {
    const ON: &str = "1";
    let path = Path::new(LINKS).join(link.as_str()).join("route_localnet");
    // /proc/sys may be read-only where somebody else has set it already.
    if read(&path)?.trim_end() == ON {
        return Ok(());
    }
    fs::write(&path, ON).map_err(|source| HostError::Write { path, value: ON, source })
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
