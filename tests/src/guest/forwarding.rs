//! Does the real `xvip` forward real connections on this kernel, in native XDP?

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;

use super::{CaseResult, note};
use crate::apiserver::pattern;
use crate::node::NodeConfig;
use crate::topology::{Lab, LabBuilder};

/// Everything takes ten to thirty times as long as it does without emulation.
const PATIENCE: u32 = 10;
const SIZE: usize = 2 << 20;

/// Runs `work` with one LB node that owns the VIP and has all its backends up. `change` changes the node's
/// configuration before it starts; a failure shows the lab's logs.
pub(super) fn with_running_lab(
    builder: LabBuilder,
    change: impl FnOnce(&mut NodeConfig),
    work: impl FnOnce(&Lab) -> CaseResult,
) -> CaseResult {
    let lab = builder.lbs(1).patience(PATIENCE).build()?;
    let result = start(&lab, change).and_then(|()| work(&lab));
    if result.is_err() {
        println!("the ends of the lab's logs:\n{}", lab.last_lines());
    }
    result
}

fn start(lab: &Lab, change: impl FnOnce(&mut NodeConfig)) -> CaseResult {
    lab.lb(0).configure(|config| {
        // A second is a long time for a check, but not here.
        for service in &mut config.services {
            service.health = vec!["timeout = \"10s\"".to_owned()];
        }
        change(config);
    })?;
    lab.start_lbs()?;
    Ok(())
}

/// Requests through the VIP are answered by each backend, forwarded by a program that is attached natively.
pub(super) fn native() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2),
        |_| (),
        |lab| {
            let status = lab.lb(0).status()?;
            assert_eq!(status.interface.xdp_mode, "native");
            let before = status.transmitted();
            let mut servers = BTreeMap::<String, u32>::new();
            let mut requests = 0;
            // As many as it takes to see both: twelve in a row to the same one would happen once in two thousand runs.
            while requests < 12 || servers.len() < 2 && requests < 60 {
                requests += 1;
                let answer = curl(lab, &["--dump-header", "-", &lab.vip_url("/readyz")])?;
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
                let server = answer.lines().find_map(|line| line.strip_prefix("x-served-by: "));
                *servers.entry(server.unwrap_or("nobody").to_owned()).or_default() += 1;
            }
            let status = lab.lb(0).status()?;
            let transmitted = status.transmitted() - before;
            note(format!(
                "{requests} requests, {transmitted} packets sent on by native XDP, answered by {servers:?}"
            ));
            // A TLS request takes a SYN, a ClientHello, a request and a FIN, and as many the other way.
            assert!(transmitted >= requests * 8, "only {transmitted} packets were sent on by XDP");
            assert_eq!(status.interface.xdp_mode, "native", "it did not stay native");
            assert_eq!(servers.len(), 2, "{servers:?}");
            Ok(())
        },
    )
}

/// Every byte arrives, both ways, although the client's cable loses one packet in twenty in each direction.
pub(super) fn lossy_link() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(1),
        |_| (),
        |lab| {
            for (machine, interface) in [(lab.switch(), "p-client"), (lab.client(), "eth0")] {
                let mut tc = Command::new("tc");
                tc.args(["qdisc", "add", "dev", interface, "root", "netem", "loss", "5%"]);
                let output = machine.output(&mut tc)?;
                assert!(output.status.success(), "{tc:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
            let sent: Vec<u8> = (0..SIZE as u64).map(pattern).collect();
            let file = lab.dir().join("upload");
            std::fs::write(&file, &sent)?;
            let data = format!("@{}", file.display());
            let got = curl(lab, &[&lab.vip_url(&format!("/bytes/{SIZE}"))])?;
            assert!(got == sent, "{} of {SIZE} bytes came down, or others", got.len());
            let got = curl(lab, &["--data-binary", &data, &lab.vip_url("/echo")])?;
            assert!(got == sent, "{} of {SIZE} bytes came back, or others", got.len());
            let lost = lost(lab)?;
            note(format!("{} MiB down and {} MiB up and down, {lost} packets lost", SIZE >> 20, SIZE >> 20));
            assert!(lost > 0, "nothing was lost, so nothing was shown");
            Ok(())
        },
    )
}

/// How many packets the two ends of the client's cable have thrown away.
fn lost(lab: &Lab) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut sum = 0;
    for (machine, interface) in [(lab.switch(), "p-client"), (lab.client(), "eth0")] {
        let output =
            machine.output(Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", interface]))?;
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        sum += shown[0]["drops"].as_u64().ok_or_else(|| format!("no drops in {shown}"))?;
    }
    Ok(sum)
}

fn curl(lab: &Lab, words: &[&str]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let output = lab.curl(&[&["--max-time", "60"], words].concat())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("curl {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
