//! Whether a script only asks what xvip knows by itself: is the balancer's process there, does somebody listen on its port?

/// Processes that balance TCP in front of API servers.
const BALANCERS: [&str; 5] = ["haproxy", "nginx", "envoy", "gobetween", "traefik"];
/// Programs that look for processes.
const PROCESS_LISTS: [&str; 6] = ["killall", "killall5", "pidof", "pgrep", "ps", "kill"];
/// Programs that look for sockets, or connect to one.
const SOCKET_LISTS: [&str; 4] = ["ss", "netstat", "lsof", "fuser"];
const CONNECTORS: [&str; 8] = ["nc", "ncat", "netcat", "curl", "wget", "telnet", "nmap", "socat"];
/// Names of the scripts that the common guides have; each looks for a balancer or for its port on this very node.
const KNOWN_SCRIPTS: [&str; 26] = [
    "check_apiserver",
    "check-apiserver",
    "check_haproxy",
    "check-haproxy",
    "chk_haproxy",
    "chk-haproxy",
    "checkhaproxy",
    "haproxy_check",
    "haproxy-check",
    "haproxy_chk",
    "check_ha",
    "check_nginx",
    "check-nginx",
    "chk_nginx",
    "nginx_check",
    "nginx_chk",
    "nginx_pid",
    "check_port",
    "check-port",
    "chk_port",
    "check_lb",
    "check-lb",
    "check_k8s",
    "check-kube-apiserver",
    "check_kube_apiserver",
    "check_api",
];

/// Whether a process's name or command line is that of a balancer that xvip stands in for.
pub fn names_balancer(process: &str) -> bool {
    let program = process.split_whitespace().next().unwrap_or("");
    let name = program.rsplit('/').next().unwrap_or("");
    BALANCERS.contains(&name)
}

/// Whether a command, split into words, only asks for the balancer's process or port on this node: `killall -0 haproxy`,
/// `ss -nlp | grep 16443` in a shell, kubeadm's `check_apiserver.sh`. A command that also looks at something else is not
/// told apart; whoever imports sees what was taken for what.
pub fn script_asks_for_balancer(command: &[String]) -> bool {
    let Some(program) = command.first() else { return false };
    let known = |word: &str| {
        let name = word.rsplit('/').next().unwrap_or("");
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        KNOWN_SCRIPTS.contains(&stem)
    };
    let shell =
        |word: &str| matches!(word.rsplit('/').next().unwrap_or(""), "sh" | "bash" | "dash" | "ash" | "env");
    if known(program) || (shell(program) && command.iter().skip(1).any(|word| known(word))) {
        return true;
    }
    // A shell's text is one word of its own.
    let words: Vec<&str> = command
        .iter()
        .flat_map(|word| word.split(|ch: char| ch.is_whitespace() || "|&;()`\"'[]{}<>$".contains(ch)))
        .filter(|word| !word.is_empty())
        .collect();
    let program_of = |word: &str| word.rsplit('/').next().unwrap_or("").to_owned();
    let calls = |programs: &[&str]| words.iter().any(|word| programs.contains(&program_of(word).as_str()));
    let names_one = words.iter().any(|word| {
        let name = program_of(word);
        BALANCERS.iter().any(|balancer| {
            name == *balancer || name == format!("{balancer}.pid") || name == format!("{balancer}.service") ||
                // `pgrep -f hapro[x]y`, `grep [h]aproxy`: brackets were taken for separators.
                name == balancer[1..]
        })
    });
    if names_one
        && (calls(&PROCESS_LISTS)
            || calls(&["systemctl", "service", "rc-service", "cat", "test", "docker", "crictl"]))
    {
        return true;
    }
    let port = words.iter().any(|word| names_port(word));
    if calls(&SOCKET_LISTS) && (port || names_one) {
        return true;
    }
    let local = words.iter().any(|word| {
        let host = word.split_once("://").map_or(*word, |(_, rest)| rest);
        ["localhost", "127.0.0.1", "::1", "0:", "0.0.0.0:"].iter().any(|name| host.starts_with(name))
            || host.starts_with("/dev/tcp/127.0.0.1")
            || host.starts_with("/dev/tcp/localhost")
    });
    local && (calls(&CONNECTORS) || words.iter().any(|word| word.starts_with("/dev/tcp/")))
}

/// `16443`, `:6443`, `*:6443`, `sport=:6443`, `-i:6443`: no counts and no exit statuses.
fn names_port(word: &str) -> bool {
    let digits = word.rsplit(|ch: char| !ch.is_ascii_digit()).next().unwrap_or("");
    digits.parse::<u16>().is_ok_and(|port| port >= 80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::keepalived::words::escaped;

    fn asks(script: &str) -> bool {
        script_asks_for_balancer(&escaped(script).unwrap())
    }

    #[test]
    fn questions_for_the_balancer_are_known() {
        for script in [
            "killall -0 haproxy",
            "/usr/bin/killall -0 haproxy",
            "pidof haproxy",
            "/usr/sbin/pidof haproxy",
            "pgrep haproxy",
            "/usr/bin/pgrep -x haproxy",
            "systemctl is-active haproxy",
            "systemctl is-active --quiet haproxy.service",
            "/bin/bash -c 'if [[ $(ss -nlp | grep 16443) ]]; then exit 0; else exit 1; fi'",
            "bash -c 'if [ $(ss -alnupt | grep 9443 | wc -l) -eq 0 ];then exit 1;fi'",
            "/usr/bin/bash -c 'if [[ $(ps -C haproxy --no-headers | wc -l) -eq 0 ]] ; then exit 1;fi'",
            "netstat -ntlp | grep :6443",
            "lsof -i:6443",
            "nc -z localhost 6443",
            "nc -zv -w 2 127.0.0.1 6443",
            "/usr/bin/curl -s -k https://localhost:6443/",
            "/bin/curl --silent --max-time 2 --insecure https://127.0.0.1:16443/healthz -o /dev/null",
            "/etc/keepalived/check_apiserver.sh",
            "sh /etc/keepalived/check_haproxy.sh",
            "/bin/sh -c '/etc/keepalived/chk_haproxy.sh'",
            "/usr/bin/timeout 0.9 /usr/bin/curl -o /dev/null -kLs https://0:6443/readyz",
            "kill -0 `cat /var/run/haproxy.pid`",
            "bash -c '</dev/tcp/127.0.0.1/6443'",
        ] {
            assert!(asks(script), "{script}");
        }
    }

    #[test]
    fn other_questions_are_kept() {
        for script in [
            "/usr/local/bin/check_disk.sh",
            "ping -c 1 -W 1 172.16.0.1",
            "/bin/true",
            "killall -0 sshd",
            "systemctl is-active etcd",
            "curl -k https://172.16.0.4:6443/readyz",
            "ss -s",
            "/usr/bin/pgrep etcd",
            "nc -z 172.16.0.1 53",
            "ip link show bond0",
        ] {
            assert!(!asks(script), "{script}");
        }
        assert!(!script_asks_for_balancer(&[]));
    }

    #[test]
    fn processes_of_balancers() {
        assert!(
            names_balancer("haproxy")
                && names_balancer("/usr/sbin/haproxy -W -db")
                && names_balancer("nginx")
        );
        assert!(!names_balancer("haproxyctl") && !names_balancer("") && !names_balancer("sshd"));
    }
}
