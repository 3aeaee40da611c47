//! What of a configuration is settled at the start, for as long as the process runs.

use dot_proxy_config::{Config, Protocol};

/// The fields of a new configuration that differ from the one that the process was started with, and wait for a restart. Their
/// old values hold meanwhile; all other fields are taken.
pub(super) fn waiting_for_a_restart(started: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&started.listen, &new.listen);
    let fields = [
        ("listen.host", was.host != is.host),
        ("listen.port", was.port != is.port),
        ("listen.connections", was.connections != is.connections),
        ("admin", started.admin != new.admin),
        ("log", started.log != new.log),
        ("threads", started.threads != new.threads),
        ("query.inFlight", started.query.in_flight != new.query.in_flight),
        ("events", started.events != new.events),
        ("confinement", started.confinement != new.confinement),
        ("clients", started.clients != new.clients),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// A program that asks servers has to be there, and allowed to be run, from the start on.
pub(super) fn check_program(started: &Config, new: &Config) -> Result<(), String> {
    let (was, is) = (started.upstream.protocol, new.upstream.protocol);
    if !is.is_a_program() || was == is {
        return Ok(());
    }
    let (was, is) = (Protocol::as_str(was), Protocol::as_str(is));
    Err(format!("upstream.protocol: a proxy that was started with {was} cannot run {is}: restart it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(started: &str, new: &str) -> Vec<&'static str> {
        waiting_for_a_restart(&Config::from_yaml(started).unwrap(), &Config::from_yaml(new).unwrap())
    }

    #[test]
    fn what_sockets_threads_and_tables_were_made_of_waits_for_a_restart_and_nothing_else() {
        let new = "{listen: {host: 127.0.0.1, port: 53, connections: 7}, admin: {address: \"127.0.0.1:1\"}, log: {level: debug},
            threads: 2, query: {inFlight: 7}, events: {stdout: true}, confinement: false, clients: {cookies: false}}";
        let all =
            "listen.host listen.port listen.connections admin log threads query.inFlight events confinement clients";
        assert_eq!(waiting("{}", new).join(" "), all);
        let live = "{listen: {allow: [192.0.2.0/24]}, upstream: {servers: [quad9], strategy: ordered, idleSeconds: 20},
            routes: [{suffixes: [corp.example], servers: [\"udp://192.0.2.1\"]}], cluster: {domain: cluster.local},
            cache: {size: 1Mi, staleSeconds: 0}, query: {deadlineMilliseconds: 1000}}";
        assert!(waiting("{}", live).is_empty());
    }

    #[test]
    fn a_program_that_the_process_was_not_started_with_is_not_run() {
        let config = |protocol: &str| {
            let url = if protocol == "kdig" { "tls://192.0.2.1#a.example" } else { "https://192.0.2.1#a.example" };
            Config::from_yaml(&format!("upstream: {{protocol: {protocol}, servers: [\"{url}\"]}}")).unwrap()
        };
        for (started, new, is_right) in
            [("doh", "curl", false), ("kdig", "curl", false), ("curl", "curl", true), ("curl", "doh", true)]
        {
            assert_eq!(check_program(&config(started), &config(new)).is_ok(), is_right, "{started} {new}");
        }
    }
}
