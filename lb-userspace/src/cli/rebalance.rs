//! `xvip rebalance`: says who has too many connections, and resets these, a few at a time.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    command::{SocketArgs, block_on, failed},
    schema,
};
use crate::{
    control::{
        client,
        protocol::{RebalanceAnswer, RebalanceOrder, RebalancePlan},
    },
    status::{
        LastRebalanceStatus,
        table::{Look, new_table, trimmed},
    },
};

/// What has become of it is asked that often.
const ASK: Duration = Duration::from_millis(300);

/// The arguments of `xvip rebalance`.
#[derive(Clone, Debug, clap::Args)]
pub struct RebalanceArgs {
    /// Only print what would be done; of every service, also where no rebalance is configured
    #[arg(long)]
    pub dry_run: bool,
    /// Only this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Do not wait for the end: the daemon goes on by itself in any case
    #[arg(long)]
    pub no_wait: bool,
    /// Print the plans as one JSON object, and do not wait
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<RebalanceAnswer>)]
    pub json_schema: bool,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Prints the plans and, unless it is a dry run, what became of them. Exits with 1 where nothing may be rebalanced, or a
/// rebalance did not get there.
pub fn run(args: &RebalanceArgs) -> ExitCode {
    match block_on(carry_out(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

async fn carry_out(args: &RebalanceArgs) -> anyhow::Result<bool> {
    let socket = &args.socket.socket;
    let order = RebalanceOrder { service: args.service.clone(), dry_run: args.dry_run, by: None };
    let answer = client::rebalance(socket, &order).await?;
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
        return Ok(answer.error.is_none());
    }
    let RebalanceAnswer { plans, error } = answer;
    if let Some(error) = error {
        anyhow::bail!(error);
    }
    let look = if out.is_terminal() { Look::Terminal } else { Look::Plain };
    for plan in &plans {
        write!(out, "{}", render(plan, look))?;
    }
    out.flush()?;
    let mut all_well = true;
    for plan in plans.iter().filter(|plan| plan.begun && !args.no_wait) {
        let end = follow(socket, &plan.service).await?;
        all_well &= matches!(end.outcome.as_str(), "balanced" | "nearly-balanced");
        writeln!(out, "{}", ending(&plan.service, &end))?;
    }
    Ok(all_well)
}

/// Waits until a service's rebalance has ended.
async fn follow(socket: &Path, service: &str) -> anyhow::Result<LastRebalanceStatus> {
    loop {
        sleep(ASK).await;
        let status = client::status(socket).await?;
        let known = status.services.into_iter().find(|known| known.name == service);
        let Some(rebalance) = known.and_then(|known| known.rebalance) else {
            anyhow::bail!("service {service} was removed, or its rebalance switched off, meanwhile");
        };
        if !rebalance.running
            && let Some(last) = rebalance.last
        {
            return Ok(last);
        }
    }
}

fn ending(service: &str, end: &LastRebalanceStatus) -> String {
    let took = humantime::format_duration(Duration::from_millis(end.took_ms));
    let of: Vec<String> =
        end.resets_by_backend.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let of = if of.is_empty() { String::new() } else { format!(" ({})", of.join(", ")) };
    format!("{service}: {} after {took}: {} connections reset{of}", end.outcome, end.resets)
}

fn render(plan: &RebalancePlan, look: Look) -> String {
    let mut table = new_table(look);
    table.set_header(["backend", "weight", "active", "fair share", "to reset", "then"]);
    for backend in &plan.backends {
        let number =
            |number: u64| if backend.left_out.is_some() { "-".to_owned() } else { number.to_string() };
        table.add_row([
            backend.name.clone(),
            backend.weight.to_string(),
            backend.active.to_string(),
            backend.left_out.clone().unwrap_or_else(|| backend.fair.to_string()),
            number(backend.resets),
            number(backend.after),
        ]);
    }
    let RebalancePlan { service, margin, floor, rate, resets, .. } = plan;
    let seconds = resets.div_ceil(u64::from(*rate).max(1));
    let what = match (&plan.note, plan.begun) {
        (Some(note), _) => note.clone(),
        (None, true) => {
            format!("{resets} connections are reset, at most {rate} per second: about {seconds} s")
        }
        (None, false) => {
            format!("{resets} connections would be reset, at most {rate} per second: about {seconds} s")
        }
    };
    format!("service {service}, margin {margin} %, floor {floor}: {what}\n{}\n", trimmed(&table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::PlannedBackend;

    #[test]
    fn a_plan_is_a_table() {
        let backend = |name: &str, active, resets, after, left_out: Option<&str>| PlannedBackend {
            name: name.to_owned(),
            weight: 100,
            active,
            left_out: left_out.map(str::to_owned),
            fair: 100,
            resets,
            after,
        };
        let mut plan = RebalancePlan {
            service: "api".to_owned(),
            margin: 10,
            floor: 10,
            rate: 10,
            resets: 90,
            begun: false,
            note: None,
            backends: vec![
                backend("m1", 150, 45, 105, None),
                backend("m3", 0, 0, 90, None),
                backend("m4", 7, 0, 7, Some("disabled")),
            ],
        };
        let text = render(&plan, Look::Plain);
        let rows: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            rows,
            [
                "service api, margin 10 %, floor 10: 90 connections would be reset, at most 10 per second: about 9 s",
                "backend weight active fair share to reset then",
                "m1 100 150 100 45 105",
                "m3 100 0 100 0 90",
                "m4 100 7 disabled - -",
            ]
        );
        plan.note = Some("another node has its VIP: rebalance there".to_owned());
        assert!(
            render(&plan, Look::Terminal).starts_with("service api, margin 10 %, floor 10: another node has")
        );
    }

    #[test]
    fn its_end_is_said_with_the_count() {
        let end = LastRebalanceStatus {
            took_ms: 10_200,
            outcome: "balanced".to_owned(),
            resets: 90,
            resets_by_backend: [("m1".to_owned(), 45), ("m2".to_owned(), 45)].into(),
            ..LastRebalanceStatus::default()
        };
        assert_eq!(ending("api", &end), "api: balanced after 10s 200ms: 90 connections reset (m1 45, m2 45)");
    }
}
