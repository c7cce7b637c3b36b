//! Interfaces that are not simply there: VLANs on a cable, two cables for one.

use std::process::Command;
use std::time::Duration;

use super::forwarding::{answers_from_all, transfer, with_running_lab};
use super::{CaseResult, note};
use crate::topology::{Family, Lab, VIP};
use crate::wait;

const SIZE: usize = 256 << 10;
const VLAN: u16 = 100;
const OTHER: u16 = 200;

/// `interface = "eth0.100"`: the program is on `eth0`, serves VLAN 100 with its tag, and leaves another VLAN alone.
pub(super) fn one_vlan() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2).vlans(VLAN, VLAN),
        |_| (),
        |lab| {
            // A card would otherwise take the tags out.
            let features = lab.lb(0).machine().output(Command::new("ethtool").args(["-k", "eth0"]))?;
            let features = String::from_utf8_lossy(&features.stdout).into_owned();
            assert!(features.contains("rx-vlan-offload: off"), "{features}");
            answers_from_all(lab, Family::V4)?;
            transfer(lab, Family::V4, SIZE)?;
            stranger_is_left_alone(lab)
        },
    )
}

/// A machine in another VLAN that knows the VIP's Ethernet address, and asks it all the same.
fn stranger_is_left_alone(lab: &Lab) -> CaseResult {
    let stranger = lab.add_machine("stranger", 99, false)?;
    let client = lab.client();
    let neighbour = client.output(Command::new("ip").args(["neigh", "show", &VIP.to_string()]))?;
    let text = String::from_utf8_lossy(&neighbour.stdout).into_owned();
    let mac = text.split(' ').skip_while(|word| *word != "lladdr").nth(1).ok_or("the client knows no VIP")?;
    stranger.ip(&format!("link delete eth0.{VLAN}"))?;
    stranger.ip(&format!("link add link eth0 name eth0.{OTHER} type vlan id {OTHER}"))?;
    stranger.ip(&format!("address add 172.16.0.99/24 dev eth0.{OTHER}"))?;
    stranger.ip(&format!("link set eth0.{OTHER} up"))?;
    stranger.ip(&format!("neigh add {VIP} lladdr {mac} dev eth0.{OTHER}"))?;
    let others =
        || lab.lb(0).status().ok().and_then(|status| status.packets.passed.get("other-vlan").copied());
    let before = others().unwrap_or(0);
    let url = lab.vip_url_of(Family::V4, "/readyz");
    let output = lab.on(&stranger).curl(&["--connect-timeout", "5", &url])?;
    // 28 is curl's word for a time-out.
    assert_eq!(output.status.code(), Some(28), "{}", String::from_utf8_lossy(&output.stderr));
    let seen = wait::value("packets of another VLAN in the status", Duration::from_secs(10), || {
        others().filter(|now| *now > before)
    })?;
    note(format!(
        "{} packets of VLAN {OTHER} were left to the host, which has no such interface",
        seen - before
    ));
    Ok(())
}

/// `interfaces = ["bond0.100", "bond0.200"]`: clients in one VLAN, API servers in the other, one bond of two cables for
/// both; forwarding by either of these.
pub(super) fn two_vlans_on_a_bond() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2).vlans(VLAN, OTHER).bonds(),
        |_| (),
        |lab| {
            answers_from_all(lab, Family::V4)?;
            transfer(lab, Family::V4, SIZE)?;
            lab.cut("lb1")?;
            wait::until("the bond to use its other cable", Duration::from_secs(20), || {
                let shown = lab.lb(0).machine().output(Command::new("cat").arg("/proc/net/bonding/bond0"));
                shown.is_ok_and(|shown| {
                    String::from_utf8_lossy(&shown.stdout).contains("Currently Active Slave: eth1")
                })
            })?;
            answers_from_all(lab, Family::V4)?;
            transfer(lab, Family::V4, SIZE)
        },
    )
}
