//! In which ways a file changes, and what is no configuration.

use std::fs;
use std::io::Write;
use std::process::Command;

use super::{asked, is_rejected, is_taken, resolves};
use crate::authority::Authority;
use crate::client::ask;
use crate::confinement::started::{Directory, Started, command};
use crate::proxy::{Proxy, configuration};
use crate::server::Server;
use crate::volume::{Volume, config, hash};
use crate::wait::until;

#[tokio::test]
async fn a_file_that_is_written_over_renamed_over_or_made_anew_is_read_again() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let texts = servers.each_ref().map(|server| config(&authority, &[&server.url()], ""));
    let directory = Directory::new();
    let file = directory.file("dot-proxy.yaml", &texts[0]);
    let proxy = Proxy::watching(&file);
    fs::write(&file, &texts[1]).unwrap();
    is_taken(&proxy, &texts[1]).await;
    fs::rename(directory.file("next", &texts[0]), &file).unwrap();
    is_taken(&proxy, &texts[0]).await;
    fs::remove_file(&file).unwrap();
    until("it is told that there is no file", async || {
        proxy.configuration().await == (hash(&texts[0]), Some((String::new(), "unreadable".to_owned())))
    })
    .await;
    resolves(&proxy, "between.example.com.").await;
    fs::write(&file, &texts[1]).unwrap();
    is_taken(&proxy, &texts[1]).await;
    resolves(&proxy, "last.example.com.").await;
    assert_eq!((asked(&servers[0]).len(), asked(&servers[1]).len()), (1, 1));
}

#[tokio::test]
async fn what_is_no_configuration_changes_nothing_and_is_told() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let good = config(&authority, &[&server.url()], "");
    let volume = Volume::holding(&good);
    let proxy = Proxy::watching(&volume.file());
    for (text, reason, why) in [
        ("", "unreadable", "is empty"),
        (&good[..good.len() / 2], "invalid", "not readable as YAML or JSON"),
        ("{upstream: {servers: [cloudfare]}}", "invalid", "upstream.servers[0]: \"cloudfare\" is no server"),
        ("{upstream: {servers: [\"udp://192.0.2.1\"]}}", "invalid", "would leave in the clear"),
        ("{upstream: {caFile: /nonexistent/ca.pem}}", "invalid", "upstream.caFile: /nonexistent/ca.pem: No such file"),
        ("{upstream: {protocol: kdig}}", "restart", "cannot run kdig: restart it"),
        ("\u{0}\u{1}garbage", "invalid", "not readable"),
    ] {
        volume.swap(text);
        is_rejected(&proxy, &good, text, reason).await;
        let (_, told) = proxy.admin("/debug/config").await;
        assert!(told.contains(why) && told.contains("the last one goes on"), "{told}");
    }
    resolves(&proxy, "www.example.com.").await;
    volume.swap(&good);
    is_taken(&proxy, &good).await;
    assert_eq!(proxy.metric("dot_proxy_config_reloads_total{result=\"rejected\"}").await, 7);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_file_that_is_written_slowly_is_taken_when_it_is_whole() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let texts = servers.each_ref().map(|server| config(&authority, &[&server.url()], ""));
    let directory = Directory::new();
    let file = directory.file("config.json", &texts[0]);
    let proxy = Proxy::watching(&file);
    let (first, second) = texts[1].split_at(texts[1].len() / 2);
    let mut writing = fs::File::create(&file).unwrap();
    writing.write_all(first.as_bytes()).unwrap();
    writing.sync_all().unwrap();
    resolves(&proxy, "meanwhile.example.com.").await;
    writing.write_all(second.as_bytes()).unwrap();
    drop(writing);
    is_taken(&proxy, &texts[1]).await;
}

#[tokio::test]
async fn an_exchanged_ca_is_taken_though_the_configuration_is_the_same() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::tls(&authority).await;
    let directory = Directory::new();
    let ca = directory.file("ca.pem", &authority.pem());
    let listen = "listen: {host: 127.0.0.1, port: 0}\nadmin: {address: \"127.0.0.1:0\"}";
    let text = format!("{listen}\nupstream: {{servers: [\"{}\"], caFile: {}}}\n", server.url(), ca.display());
    let file = directory.file("config.yaml", &text);
    let proxy = Proxy::watching(&file);
    resolves(&proxy, "first.example.com.").await;
    fs::rename(directory.file("next.pem", &other.pem()), &ca).unwrap();
    is_rejected(&proxy, &text, &text, "unproved").await;
    resolves(&proxy, "second.example.com.").await;
    server.replaces_its_certificate(&other, crate::authority::NAME, crate::authority::LAST_YEAR);
    is_taken(&proxy, &text).await;
    resolves(&proxy, "third.example.com.").await;
    assert_eq!((server.connections(), asked(&server).len()), (2, 3));
}

#[tokio::test]
async fn what_sockets_and_threads_are_made_of_waits_for_a_restart_and_the_rest_is_taken() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let texts = servers.each_ref().map(|server| config(&authority, &[&server.url()], ""));
    let volume = Volume::holding(&texts[0]);
    let proxy = Proxy::watching(&volume.file());
    let other = texts[1].replace("port: 0", "port: 1").replace("{listen", "{threads: 2, listen");
    volume.swap(&other);
    is_taken(&proxy, &other).await;
    resolves(&proxy, "www.example.com.").await;
    assert_eq!(asked(&servers[1]).len(), 1);
    assert_eq!(proxy.metric("dot_proxy_config_restart_needed").await, 1);
    let (_, told) = proxy.admin("/debug/config").await;
    assert!(told.contains("waiting for a restart: listen.port, threads"), "{told}");
    volume.swap(&texts[1]);
    is_taken(&proxy, &texts[1]).await;
    assert_eq!(proxy.metric("dot_proxy_config_restart_needed").await, 0);
}

#[tokio::test]
async fn a_confined_proxy_without_rights_reads_its_volume_again_when_it_changes_and_on_sighup() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let texts = servers.each_ref().map(|server| config(&authority, &[&server.url()], ""));
    let (volume, program) = (Volume::holding(&texts[0]), Directory::new());
    let mut proxy = Started::by(command(&program, &volume.file()));
    let line = proxy.line();
    assert!(line.contains("\"confined\""), "{line}");
    assert_eq!(ask(proxy.address, "first.example.com.").await.answers.len(), 1);
    volume.swap(&texts[1]);
    let wanted = (hash(&texts[1]), None);
    until("the configuration is taken", async || configuration(proxy.admin).await == wanted).await;
    assert_eq!(ask(proxy.address, "second.example.com.").await.answers.len(), 1);
    assert_eq!((asked(&servers[0]).len(), asked(&servers[1]).len()), (1, 1));
    // A link to elsewhere is not watched; whoever exchanges what is there says so.
    let elsewhere = volume.path("elsewhere.json");
    fs::write(&elsewhere, &texts[0]).unwrap();
    let _ = fs::remove_file(volume.file());
    std::os::unix::fs::symlink(&elsewhere, volume.file()).unwrap();
    let wanted = (hash(&texts[0]), None);
    until("the other file is taken", async || configuration(proxy.admin).await == wanted).await;
    fs::write(&elsewhere, &texts[1]).unwrap();
    let hangup = Command::new("kill").args(["-HUP", &proxy.id().to_string()]).status().unwrap();
    assert!(hangup.success());
    let wanted = (hash(&texts[1]), None);
    until("it is read again", async || configuration(proxy.admin).await == wanted).await;
    assert_eq!(ask(proxy.address, "third.example.com.").await.answers.len(), 1);
}
