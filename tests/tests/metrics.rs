//! The metrics of real nodes against the catalogue and `promtool`; the alert rules against invented series; and whether alerts,
//! dashboard and manual name only what there is. Needs root, for the network namespaces, and Prometheus' promtool.
//!
//! Runner: threads 2, minutes 5

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lb_common::reason::DropReason;
use lb_tests::daemon::{Daemon, last_lines};
use lb_tests::node::LbNode;
use lb_tests::shared_flows::share;
use lb_tests::topology::Lab;
use lb_tests::wait;
use lb_userspace::metrics::{Format, Metric, catalogue};
use serde_json::{Value, json};

type TestResult = Result<(), Box<dyn Error>>;

/// Generous: nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// Labels that Prometheus adds, or the alerts themselves.
const OF_PROMETHEUS: [&str; 5] = ["job", "instance", "le", "alertname", "alertstate"];

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn read(file: &str) -> Result<String, Box<dyn Error>> {
    fs::read_to_string(repository(file)).map_err(|error| format!("{file}: {error}").into())
}

/// Runs promtool, and fails with what it says.
fn promtool(words: &[&str], directory: &Path, input: &str) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new("promtool");
    command.args(words).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("promtool (package prometheus): {error}"))?;
    let mut stdin = child.stdin.take().ok_or("a pipe")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(
            format!("promtool {words:?}: {}\n{}", output.status, String::from_utf8_lossy(&said)).into()
        );
    }
    Ok(output)
}

/// What a node tells who asks for a format.
fn scrape(node: &LbNode, format: Format) -> Result<String, Box<dyn Error>> {
    let accept = format.content_type().split("; charset").next().unwrap_or_default();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--max-time", "10", "--write-out", "%{content_type}", "--header"]);
    curl.arg(format!("Accept: {accept}")).arg(format!("http://{}/metrics", listens_at(node)));
    let output = node.machine().output(&mut curl)?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    let body = text.strip_suffix(format.content_type());
    Ok(body.ok_or_else(|| format!("not {}: {text}", format.content_type()))?.to_owned())
}

/// `[http] listen` of a node.
fn listens_at(node: &LbNode) -> SocketAddr {
    SocketAddr::new(node.address(), 9188)
}

/// The value of a series, written as in the text.
fn value(text: &str, series: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    rest.parse().ok()
}

/// The names of the series of a text, with the labels of each but `le`.
fn series(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let labels =
            &line[name.len()..].strip_prefix('{').and_then(|rest| rest.split_once('}')).unwrap_or_default().0;
        let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
        found.entry(name).or_default().extend(names.filter(|name| *name != "le"));
    }
    found
}

#[test]
fn real_nodes_tell_what_the_catalogue_says() -> TestResult {
    let lab = Lab::builder().patience(4).build()?;
    share(&lab)?;
    for lb in lab.lbs() {
        let log = lab.dir().join(format!("{}.connections", lb.name()));
        lb.configure(|config| {
            config.vrrp[0].tables.push("[[vrrp.track]]\nkind = \"interface\"\ninterface = \"lo\"".to_owned());
            config.services[0].extra.push("connection_log = true".to_owned());
            config.extra += &format!("\n[http]\nlisten = \"{}\"\n", listens_at(lb));
            config.extra += "\n[[notify]]\ncommand = [\"/bin/true\"]\n";
            config.extra += &format!("\n[connection_log]\ndirectory = {log:?}\n");
        })?;
    }
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    let count: u32 = 10;
    for _ in 0..count {
        let output = lab.curl(&["--max-time", "10", &lab.vip_url("/version")])?;
        assert!(output.status.success(), "{output:?}");
    }

    // What a second node says about the first, and the first about itself.
    let peer = |text: &str, name: &str| {
        let series = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        series.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok())
    };
    wait::until("the nodes to exchange flows", SOON, || {
        scrape(lb1, Format::Text).is_ok_and(|text| peer(&text, "xvip_sync_peer_complete{") == Some(1.0))
    })?;
    let backends = || -> Result<u64, Box<dyn Error>> {
        let text = scrape(lb1, Format::Text)?;
        let series = |number| {
            format!(
                "xvip_backend_connections_established_total{{service=\"kube-apiserver\",backend=\"master{number}\"}}"
            )
        };
        Ok((1..=3).filter_map(|number| value(&text, &series(number))).sum::<f64>() as u64)
    };
    wait::until("the connections to be counted", SOON, || {
        backends().is_ok_and(|sum| sum >= u64::from(count))
    })?;
    let held = "xvip_vip_held{vrrp=\"main\",vip=\"172.16.0.10\"}";
    let texts = [scrape(lb1, Format::Text)?, scrape(lb2, Format::Text)?];
    assert_eq!([value(&texts[0], held), value(&texts[1], held)], [Some(1.0), Some(0.0)]);

    // All that is told is in the catalogue with these labels, and all of it is told that needs no special occasion.
    let known: BTreeMap<String, Metric> = (catalogue().into_iter())
        .flat_map(|metric| metric.series().into_iter().map(move |name| (name, metric.clone())))
        .collect();
    for text in &texts {
        let told = series(text);
        for (name, labels) in &told {
            let metric = known.get(*name).ok_or_else(|| format!("{name} is not in the catalogue"))?;
            assert_eq!(*labels, metric.labels.iter().copied().collect::<BTreeSet<_>>(), "{name}");
        }
        for (name, metric) in &known {
            assert!(metric.only.is_some() || told.contains_key(name.as_str()), "{name} is not told");
        }
        for special in
            ["xvip_notify_told_events_total", "xvip_vrrp_track_up", "xvip_connection_log_records_total"]
        {
            assert!(told.contains_key(special), "{special}");
        }
        let verdict = promtool(&["check", "metrics"], lab.dir(), text)?;
        assert!(verdict.stdout.is_empty() && verdict.stderr.is_empty(), "{verdict:?}");
    }
    assert!(scrape(lb1, Format::OpenMetrics)?.ends_with("# EOF\n"));

    prometheus_understands(&lab)?;

    // A backend dies, and a reload is refused.
    lab.master(0).kill();
    fs::write(lb2.config_path(), "nonsense")?;
    assert!(!lb2.xvip(&["reload"])?.status.success());
    let of_master1 = |name: &str| format!("{name}{{service=\"kube-apiserver\",backend=\"master1\"}}");
    wait::until("the death to be told", SOON, || {
        let text = scrape(lb1, Format::Text).unwrap_or_default();
        let refused = "xvip_backend_check_failures_total{service=\"kube-apiserver\",backend=\"master1\",reason=\"refused\"}";
        let dead = "xvip_backend_state{service=\"kube-apiserver\",backend=\"master1\",state=\"dead\"}";
        value(&text, &of_master1("xvip_backend_up")) == Some(0.0)
            && value(&text, dead) == Some(1.0)
            && value(&text, refused) >= Some(2.0)
            && value(&text, &of_master1("xvip_backend_transitions_total")) >= Some(2.0)
            && value(&text, "xvip_service_usable_backends{service=\"kube-apiserver\"}") == Some(2.0)
    })
    .map_err(|why| format!("{why}\n{}", scrape(lb1, Format::Text).unwrap_or_default()))?;
    assert_eq!(value(&texts[1], "xvip_config_last_reload_successful"), Some(1.0));
    let text = scrape(lb2, Format::Text)?;
    assert_eq!(value(&text, "xvip_config_last_reload_successful"), Some(0.0));
    let (read, tried) = ["loaded", "last_reload"]
        .map(|what| value(&text, &format!("xvip_config_{what}_timestamp_seconds")))
        .into();
    assert!(read.is_some() && read < tried, "{read:?} {tried:?}");
    Ok(())
}

/// A real Prometheus scrapes the first node, and has the same numbers of it.
fn prometheus_understands(lab: &Lab) -> TestResult {
    let lb = lab.lb(0);
    let file = lab.dir().join("prometheus.yml");
    let configuration = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": [repository("packaging/prometheus/alerts.yml").canonicalize()?],
        "scrape_configs": [{ "job_name": "xvip", "static_configs": [{ "targets": [listens_at(lb).to_string()] }] }],
    });
    fs::write(&file, configuration.to_string())?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", lab.dir().join("prometheus").display()));
    command.arg("--web.listen-address=127.0.0.1:9090");
    let log = lab.dir().join("prometheus.log");
    let prometheus = Daemon::start(lb.machine(), "prometheus", &mut command, &log)?;
    let query = |query: &str| -> Option<f64> {
        let mut curl = Command::new("curl");
        curl.args(["-sG", "--max-time", "5", "--data-urlencode", &format!("query={query}")]);
        let output = lb.machine().output(curl.arg("http://127.0.0.1:9090/api/v1/query")).ok()?;
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let told = || {
        let text = scrape(lb, Format::Text).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    wait::until("Prometheus to have every series", SOON, || {
        let scraped = query("scrape_samples_scraped{job=\"xvip\"}");
        query("up{job=\"xvip\"}") == Some(1.0) && scraped == Some(told() as f64)
    })
    .map_err(|why| format!("{why}: {} series\n{}", told(), last_lines(&log, 20)))?;
    assert_eq!(query("sum by (vip) (xvip_vip_held)"), Some(1.0));
    assert_eq!(query("count(xvip_backend_up == 1)"), Some(3.0));
    assert_eq!(query("xvip_build_info"), Some(1.0));
    drop(prometheus);
    Ok(())
}

/// The expressions of the rules, in the form that this repository writes them in, by the name of the alert.
fn expressions(rules: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut name = String::new();
    let mut lines = rules.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if let Some(alert) = line.strip_prefix("- alert: ") {
            alert.clone_into(&mut name);
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            let mut whole = expression.trim_start_matches(">-").to_owned();
            while let Some(more) =
                lines.next_if(|line| !line.starts_with("for:") && !line.starts_with("labels:"))
            {
                whole += " ";
                whole += more;
            }
            found.insert(name.clone(), whole);
        }
    }
    found
}

/// The selectors of an expression whose metric begins with `xvip_` or `process_`, each with the labels that it names.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = rest[1..].split_once('"').map_or("", |(_, after)| after);
        } else if is_word(first) {
            let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
            rest = after;
            if inside && after.trim_start().starts_with(['=', '!']) {
                if let Some((_, labels)) = found.last_mut() {
                    labels.push(word.to_owned());
                }
            } else if word.starts_with("xvip_") || word.starts_with("process_") {
                found.push((word.to_owned(), Vec::new()));
                inside = after.starts_with('{');
            }
        } else {
            inside &= first != '}';
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

#[test]
fn selectors_are_found_with_their_labels() {
    let found = selectors(
        "rate(xvip_a_total{job=\"x{y=}\", le!=\"1\"}[5m]) / on (vip) xvip_b > 1 and up{z=\"xvip_c\"}",
    );
    let expected = [("xvip_a_total", vec!["job", "le"]), ("xvip_b", vec![])]
        .map(|(name, labels)| (name.to_owned(), labels.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    assert_eq!(found, expected);
}

/// Whether the metrics and labels of an expression exist.
fn check_names(what: &str, expression: &str) {
    let catalogue = catalogue();
    for (name, labels) in selectors(expression) {
        let metric = catalogue.iter().find(|metric| metric.series().contains(&name));
        let metric = metric.unwrap_or_else(|| panic!("{what}: there is no {name}"));
        for label in &labels {
            let known = metric.labels.contains(&label.as_str()) || OF_PROMETHEUS.contains(&label.as_str());
            assert!(known, "{what}: {name} has no label {label}");
        }
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_name_what_there_is() -> TestResult {
    let rules = read("packaging/prometheus/alerts.yml")?;
    let directory = repository("packaging/prometheus");
    promtool(&["check", "rules", "alerts.yml"], &directory, "")?;
    promtool(&["test", "rules", "alerts_test.yml"], &directory, "")?;
    let expressions = expressions(&rules);
    assert_eq!(expressions.len(), rules.matches("- alert: ").count(), "each alert has an expression");
    let scenarios = read("packaging/prometheus/alerts_test.yml")?;
    for (alert, expression) in &expressions {
        check_names(alert, expression);
        let fires = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(scenarios.contains(&fires), "no scenario in which {alert} fires");
        // In the one in which all is well each of its series is there, so that its silence says something.
        let well = scenarios.split("- name: ").nth(1).unwrap_or_default();
        for (name, _) in selectors(expression) {
            assert!(
                well.contains(&format!("series: {name}{{")),
                "{alert}: {name} is not there while all is well"
            );
        }
    }
    // What is dropped through a fault of the node or its surroundings is what the log complains about.
    let alarming: Vec<&str> =
        DropReason::ALL.iter().filter(|reason| reason.is_alarming()).map(|reason| reason.name()).collect();
    let expected = format!("reason=~\"{}\"", alarming.join("|"));
    assert!(expressions["XvipPacketsLost"].contains(&expected), "{expected}");
    Ok(())
}

/// Every value of a key called `expr`, `query` or `definition` that is a text.
fn queries<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(parts) => {
            for (key, part) in parts {
                match part {
                    Value::String(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                        found.push(text);
                    }
                    _ => queries(part, found),
                }
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| queries(part, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() -> TestResult {
    let dashboard: Value = serde_json::from_str(&read("packaging/grafana/xvip.json")?)?;
    let mut found = Vec::new();
    queries(&dashboard["panels"], &mut found);
    assert!(found.len() > 40, "{} queries", found.len());
    let mut rules = Vec::new();
    for (number, query) in found.iter().enumerate() {
        check_names("dashboard", query);
        // As Grafana would put it: its variables are texts, but for the interval.
        rules.push(json!({ "record": format!("dashboard:query{number}"), "expr": query.replace("$__rate_interval", "5m") }));
    }
    let mut variables = Vec::new();
    queries(&dashboard["templating"], &mut variables);
    for query in variables.iter().filter_map(|query| query.strip_prefix("label_values(")) {
        let (selector, label) =
            query.trim_end_matches(')').rsplit_once(", ").ok_or("label_values(metric, label)")?;
        check_names("dashboard", selector);
        check_names(
            "dashboard",
            &format!("{}{{{label}=\"\"}}", selector.split('{').next().unwrap_or_default()),
        );
    }
    let directory = tempfile::tempdir()?;
    let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    // YAML has JSON in it.
    fs::write(directory.path().join("dashboard.yml"), file.to_string())?;
    promtool(&["check", "rules", "dashboard.yml"], directory.path(), "")?;

    // Panels neither overlap nor share an id.
    let panels = dashboard["panels"].as_array().ok_or("panels")?;
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or_default());
        assert!(w > 0 && h > 0 && x + w <= 24, "{}", panel["title"]);
        for cell in (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column))) {
            assert!(taken.insert(cell), "{} is on top of another panel", panel["title"]);
        }
    }
    Ok(())
}

#[test]
fn each_alert_is_on_the_page() -> TestResult {
    let page = read("docs/metrics.md")?;
    let rules = read("packaging/prometheus/alerts.yml")?;
    for alert in expressions(&rules).keys() {
        let severity = rules
            .split(&format!("- alert: {alert}\n"))
            .nth(1)
            .and_then(|rule| rule.split("severity: ").nth(1));
        let severity = severity.and_then(|rest| rest.lines().next()).unwrap_or_default();
        let row = format!("| `{alert}` | {severity} | ");
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
    assert_eq!(page.matches("| `Xvip").count(), rules.matches("- alert: ").count());
    Ok(())
}
