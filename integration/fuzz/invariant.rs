//! What must hold of every answer, whatever was asked.

use std::{collections::HashSet, error::Error};

use portclaim::{
    cni::config::Settings,
    lease::{HostPort, Namespace, Pod, PortName, Protocol},
    request::{Asked, Choice, ContainerPort, Request, RequestError, Sources, asked},
};

/// Asks twice, and looks at the answer.
pub fn assert_answer(sources: &Sources<'_>, settings: &Settings, pod: Option<&Pod>) {
    let answer = asked(sources, settings, pod);
    assert_eq!(answer, asked(sources, settings, pod));
    match answer {
        Ok(Asked { requests, health }) => {
            assert_allowed(sources, settings, pod, &requests);
            if let Some(check) = health {
                assert_eq!(check.to_string().parse().as_ref(), Ok(&check));
                assert!(requests.iter().any(|it| it.protocols.contains(Protocol::Tcp)));
            }
        }
        Err(error) => {
            assert_readable(&error);
            let is_policy = matches!(error, RequestError::Policy(_));
            assert!(!is_policy || !error.to_string().contains("character"), "{error}");
        }
    }
}

fn assert_allowed(
    sources: &Sources<'_>,
    settings: &Settings,
    pod: Option<&Pod>,
    requests: &[Request],
) {
    let total: u64 = requests.iter().map(|request| u64::from(request.leases())).sum();
    assert!(total <= u64::from(settings.max_per_pod), "{total}");
    let names: Vec<&PortName> =
        requests.iter().filter_map(|request| request.name.as_ref()).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    let namespace = pod.map(|pod| &pod.namespace);
    for request in requests {
        assert!(request.count > 0 && !request.protocols.is_empty());
        if let ContainerPort::Number(first) = request.container {
            assert!(first.above(request.count - 1).is_some());
        }
        assert_choice(sources, settings, namespace, request);
    }
    for (name, group) in &settings.groups {
        let of_group = requests.iter().filter(
            |request| matches!(&request.choice, Choice::Dynamic(dynamic) if dynamic.group == *name),
        );
        let leases: u32 = of_group.map(Request::leases).sum();
        assert!(group.max_per_pod.is_none_or(|most| leases <= most), "{leases} of {name}");
    }
    let fixed: Vec<HostPort> = requests.iter().flat_map(Request::static_ports).collect();
    // All against all is slow for the thousands of them that one setting allows.
    for (at, host) in fixed.iter().enumerate().take(64) {
        assert!(!fixed[..at].iter().any(|other| other.conflicts_with(host)), "{host}");
    }
}

fn assert_choice(
    sources: &Sources<'_>,
    settings: &Settings,
    namespace: Option<&Namespace>,
    request: &Request,
) {
    let dynamic = match &request.choice {
        Choice::Dynamic(dynamic) => dynamic,
        Choice::Static(first) => {
            let held = request.on(*first).expect("the ports exist");
            assert_eq!(held.len(), request.leases() as usize);
            let rules = &settings.static_ports;
            for (host, _) in held {
                let listed = || {
                    settings
                        .groups
                        .values()
                        .any(|group| group.admits(namespace) && group.ports.contains(host.port))
                };
                let (protocol, port) = (host.protocol, host.port);
                let by_annotation = sources.annotations.is_some()
                    && rules.annotations.allows(protocol, port, namespace)
                    && (port.number() >= 1024 || listed());
                let by_mapping = sources.port_mappings.is_some()
                    && rules.port_mappings.allows(protocol, port, namespace);
                let by_claim = sources.port_claims.is_some()
                    && rules.port_claims.allows(protocol, port, namespace);
                assert!(by_annotation || by_mapping || by_claim, "{host}");
            }
            return;
        }
    };
    let group = &settings.groups[&dynamic.group];
    assert!(group.admits(namespace), "{}", dynamic.group);
    assert!(request.protocols.iter().all(|protocol| group.protocols.contains(protocol)));
    assert!(dynamic.from.is_none_or(|from| group.ports.contains(from)));
    assert!(dynamic.claim.is_none() || request.name.is_some());
    if let Some(preferred) = dynamic.preferred {
        assert!(dynamic.from.is_none_or(|from| from <= preferred));
        for (host, _) in request.on(preferred).unwrap_or_default() {
            assert!(group.ports.contains(host.port), "{host}");
        }
        assert!(preferred.above(request.count - 1).is_some());
    }
}

/// An error and its causes fit into a log, whatever they repeat.
pub fn assert_readable(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(!text.is_empty() && text.len() <= 2048, "{} bytes: {text:?}", text.len());
    let is_readable = |c: char| "'\"\\".contains(c) || c.escape_debug().len() == 1;
    assert!(text.chars().all(is_readable), "{text:?}");
}
