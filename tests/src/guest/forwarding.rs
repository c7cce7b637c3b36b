//! Does the real `xvip` forward real connections on this kernel, in native XDP?

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::time::Instant;

use super::{CaseResult, local_clients, note};
use crate::apiserver::pattern;
use crate::node::NodeConfig;
use crate::topology::{Family, Lab, LabBuilder};

/// Everything takes ten to thirty times as long as it does without emulation.
const PATIENCE: u32 = 10;
const SIZE: usize = 512 << 10;

/// Runs `work` with one LB node that owns the VIP and has all its backends up. `change` changes the node's
/// configuration before it starts; a failure shows the lab's logs.
pub(super) fn with_running_lab(
    builder: LabBuilder,
    change: impl FnOnce(&mut NodeConfig),
    work: impl FnOnce(&Lab) -> CaseResult,
) -> CaseResult {
    let begin = Instant::now();
    let lab = builder.lbs(1).patience(PATIENCE).build()?;
    let built = begin.elapsed();
    let result = start(&lab, change).and_then(|()| {
        note(format!("the lab was there after {built:.1?}, and forwards after {:.1?}", begin.elapsed()));
        work(&lab)
    });
    if result.is_err() {
        println!("the ends of the lab's logs:\n{}", lab.last_lines());
    }
    result
}

fn start(lab: &Lab, change: impl FnOnce(&mut NodeConfig)) -> CaseResult {
    lab.lb(0).configure(|config| {
        // A second is a long time for a check, but not here.
        for service in &mut config.services {
            service.health.push("timeout = \"10s\"".to_owned());
        }
        change(config);
    })?;
    lab.start_lbs()?;
    Ok(())
}

/// Requests through the VIPs of both families are answered by each backend, forwarded by a program that is attached
/// natively. Clients on the node itself are, too. And every byte arrives, both ways, although the client's cable loses
/// one packet in twenty in each direction.
pub(super) fn native() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2).families(&Family::BOTH),
        |_| (),
        |lab| {
            for family in Family::BOTH {
                answers_from_all(lab, family)?;
            }
            local_clients::connect(lab)?;
            lose_packets(lab)?;
            for family in Family::BOTH {
                transfer(lab, family, SIZE)?;
            }
            let lost = lost(lab)?;
            note(format!("{} KiB down, and up and down, in each family, {lost} packets lost", SIZE >> 10));
            assert!(lost > 0, "nothing was lost, so nothing was shown");
            Ok(())
        },
    )
}

/// Asks the VIP until each API server has answered, and holds that XDP has done the forwarding, natively.
pub(super) fn answers_from_all(lab: &Lab, family: Family) -> CaseResult {
    let status = lab.lb(0).status()?;
    assert_eq!(status.interface.xdp_mode, "native");
    let before = status.transmitted();
    let all = lab.masters().len();
    let mut servers = BTreeMap::<String, u32>::new();
    let mut requests = 0;
    // As many as it takes to see both of two: twelve in a row to the same one would happen once in two thousand runs.
    while servers.len() < all && requests < 60 {
        requests += 1;
        let answer = curl(lab, &["--dump-header", "-", &lab.vip_url_of(family, "/readyz")])?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        let server = answer.lines().find_map(|line| line.strip_prefix("x-served-by: "));
        *servers.entry(server.unwrap_or("nobody").to_owned()).or_default() += 1;
    }
    let status = lab.lb(0).status()?;
    let transmitted = status.transmitted() - before;
    note(format!(
        "{family:?}: {requests} requests, {transmitted} packets sent on by native XDP, answered by {servers:?}"
    ));
    // A TLS request takes a SYN, a ClientHello, a request and a FIN; in nat as many come back the same way.
    assert!(transmitted >= requests * 4, "only {transmitted} packets were sent on by XDP");
    assert_eq!(status.interface.xdp_mode, "native", "it did not stay native");
    assert_eq!(servers.len(), all, "{servers:?}");
    Ok(())
}

/// Moves the same bytes down, and up and down again.
pub(super) fn transfer(lab: &Lab, family: Family, size: usize) -> CaseResult {
    let sent: Vec<u8> = (0..size as u64).map(pattern).collect();
    let file = lab.dir().join("upload");
    std::fs::write(&file, &sent)?;
    let data = format!("@{}", file.display());
    let got = curl(lab, &[&lab.vip_url_of(family, &format!("/bytes/{size}"))])?;
    assert!(got == sent, "{family:?}: {} of {size} bytes came down, or others", got.len());
    let got = curl(lab, &["--data-binary", &data, &lab.vip_url_of(family, "/echo")])?;
    assert!(got == sent, "{family:?}: {} of {size} bytes came back, or others", got.len());
    Ok(())
}

/// Has both ends of the client's cable throw one packet in twenty away.
pub(super) fn lose_packets(lab: &Lab) -> CaseResult {
    for (machine, interface) in [(lab.switch(), "p-client"), (lab.client(), "eth0")] {
        let mut tc = Command::new("tc");
        tc.args(["qdisc", "add", "dev", interface, "root", "netem", "loss", "5%"]);
        let output = machine.output(&mut tc)?;
        assert!(output.status.success(), "{tc:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// How many packets the two ends of the client's cable have thrown away.
pub(super) fn lost(lab: &Lab) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut sum = 0;
    for (machine, interface) in [(lab.switch(), "p-client"), (lab.client(), "eth0")] {
        let output =
            machine.output(Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", interface]))?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        sum += shown[0]["drops"].as_u64().ok_or_else(|| format!("no drops in {shown}"))?;
    }
    Ok(sum)
}

pub(super) fn curl(lab: &Lab, words: &[&str]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let output = lab.curl(&[&["--max-time", "60"], words].concat())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("curl {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
