//! The real keepalived (2.2.7 or later) on a machine of the lab, as on the node that is migrated last.

use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lb_tests::daemon::Daemon;
use lb_tests::netns::Netns;
use lb_tests::topology::{PREFIX_LENGTH, VIP};
use lb_tests::wait;

/// A running keepalived; killed when dropped.
pub struct Keepalived<'a> {
    machine: &'a Netns,
    log: std::path::PathBuf,
    _daemon: Daemon,
}

impl<'a> Keepalived<'a> {
    /// Starts it with priority 100 and an advertisement each second, by unicast from the first to the second address.
    pub fn start(
        machine: &'a Netns,
        dir: &Path,
        version: u8,
        password: Option<&str>,
        [source, peer]: [Ipv4Addr; 2],
    ) -> Result<Self, Box<dyn Error>> {
        let authentication =
            password.map(|password| format!("authentication {{\n auth_type PASS\n auth_pass {password}\n}}"));
        let text = format!(
            "vrrp_instance main {{\nstate BACKUP\ninterface eth0\nversion {version}\nvirtual_router_id 60\n\
             priority 100\nadvert_int 1\nunicast_src_ip {source}\nunicast_peer {{\n {peer}\n}}\n{}\n\
             virtual_ipaddress {{\n {VIP}/{PREFIX_LENGTH}\n}}\n}}\n",
            authentication.unwrap_or_default()
        );
        let (config, log) = (dir.join("keepalived.conf"), dir.join("keepalived.log"));
        fs::write(&config, text)?;
        let mut command = Command::new("keepalived");
        // Its pid files are in the machine's own `/run`.
        command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(&config);
        let daemon = Daemon::start(machine, "keepalived", &mut command, &log)
            .map_err(|error| format!("{error} (apt-get install keepalived)"))?;
        Ok(Self { machine, log, _daemon: daemon })
    }

    /// Waits until it has the VIP, or has it no more: it has it exactly while it is MASTER.
    pub fn wait_vip(&self, expected: bool) -> Result<(), Box<dyn Error>> {
        let what = format!("keepalived to {} the VIP", if expected { "take" } else { "give up" });
        wait::until(&what, Duration::from_secs(60), || {
            self.machine.addresses().is_ok_and(|all| all.contains(&IpAddr::V4(VIP)) == expected)
        })
        .map_err(|error| {
            format!("{error}; it logged:\n{}", fs::read_to_string(&self.log).unwrap_or_default()).into()
        })
    }
}
