//! What crossed the pods' interfaces, whoever sent it and whatever the logs say.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::background::Background;
use crate::command::Call;
use crate::deadline::eventually;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running capture of all DNS, in clear and over TLS, on the node's end of every pod's interface. It can begin before the pod
/// whose packets it is to show, so nothing that the pod sends is missed.
#[derive(Debug)]
pub struct Capture {
    file: PathBuf,
    tcpdump: Background,
}

/// A capture that has ended.
#[derive(Debug)]
pub struct Packets {
    file: PathBuf,
}

impl Capture {
    /// Begins; returns when packets are seen.
    pub fn start() -> Self {
        let name = format!("dot-e2e-{}-{}.pcap", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let file = std::env::temp_dir().join(name);
        let mut command = Command::new("tcpdump");
        command.args(["-i", "any", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&file).arg("port 53 or port 853");
        let tcpdump = Background::start(&command);
        // tcpdump writes the file's header when it has opened the interfaces.
        eventually("tcpdump listens", Duration::from_secs(10), || match fs::metadata(&file) {
            Ok(file) if file.len() > 0 => Ok(()),
            _ => Err("no capture file yet".to_owned()),
        });
        Self { file, tcpdump }
    }

    /// Ends the capture.
    pub fn stop(mut self) -> Packets {
        self.tcpdump.interrupt();
        Packets { file: self.file }
    }
}

impl Packets {
    /// The packets that entered the node from the pod at `ip` and match `filter` (pcap-filter(7)), one a line.
    pub fn sent_by(&self, ip: &str, filter: &str) -> Vec<String> {
        let lines = self.read(&format!("inbound and src host {ip} and ({filter})"));
        lines.lines().map(str::to_owned).collect()
    }

    /// Whether the bytes of `text` are in some packet from or to the pod at `ip` that matches `filter`.
    pub fn show(&self, text: &str, ip: &str, filter: &str) -> bool {
        // -A prints printable bytes as they are, so a label of a name in clear reads as itself.
        self.print("-A", &format!("host {ip} and ({filter})")).contains(text)
    }

    fn read(&self, filter: &str) -> String {
        self.print("-q", filter)
    }

    fn print(&self, how: &str, filter: &str) -> String {
        Call::new("tcpdump").words("-nn").arg(how).arg("-r").arg(&self.file).arg(filter).succeed()
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}
