//! Which kernel modules have to be loaded, and in which order.
//!
//! A package that was only unpacked has no `modules.dep`: `depmod` writes that when it is installed. What it would
//! say is in the modules themselves, in the section `.modinfo`: strings `key=value`, each ended by a zero byte.

use std::collections::BTreeSet;

/// A module is called the same with `-` and with `_`.
#[must_use]
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The modules in `modules.builtin`, by their canonical names: `kernel/net/ipv4/tunnel4.ko` is `tunnel4`.
pub fn built_in(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines().filter_map(file_name)
}

/// The canonical name of the module in a file: `kernel/net/8021q/8021q.ko.xz` has `8021q`.
#[must_use]
pub fn file_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, ending) = file.split_once('.')?;
    (ending == "ko" || ending.starts_with("ko.")).then(|| canonical(name))
}

/// The canonical names of the modules that this one needs.
#[must_use]
pub fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(begin) = module.windows(KEY.len()).position(|window| window == KEY) else { return vec![] };
    let value = &module[begin + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let value = String::from_utf8_lossy(&value[..end]).into_owned();
    value.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

/// The modules to load for `wanted`, each after those that it needs. `needs` tells for a canonical name which modules
/// that one needs; `None`: this kernel has no such module.
///
/// # Errors
/// The name of the module that is not there.
pub fn order(
    wanted: &[&str],
    needs: &mut impl FnMut(&str) -> Option<Vec<String>>,
) -> Result<Vec<String>, String> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        visit(canonical(name), needs, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    name: String,
    needs: &mut impl FnMut(&str) -> Option<Vec<String>>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), String> {
    // Seen before its needs are looked at, so that a circle ends.
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    for needed in needs(&name).ok_or_else(|| name.clone())? {
        visit(needed, needs, seen, order)?;
    }
    order.push(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF..\0license=GPL\0depends=stp,ip-tunnel\0retpoline=Y\0";
        assert_eq!(needs(module), ["stp", "ip_tunnel"]);
        assert!(needs(b"\0license=GPL\0depends=\0name=dummy\0").is_empty());
        assert!(needs(b"no module").is_empty());
    }

    #[test]
    fn files_have_names_of_modules() {
        assert_eq!(file_name("kernel/net/sched/sch_netem.ko.xz").as_deref(), Some("sch_netem"));
        assert_eq!(file_name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(file_name("kernel/drivers/net/phy/mdio-bus.ko").as_deref(), Some("mdio_bus"));
        assert_eq!(file_name("modules.builtin"), None);
        let list = "kernel/net/ipv4/tunnel4.ko\nkernel/crypto/xor-blocks.ko\n";
        assert_eq!(built_in(list).collect::<Vec<_>>(), ["tunnel4", "xor_blocks"]);
    }

    #[test]
    fn needed_modules_come_first_and_once() {
        let mut needs = |name: &str| {
            let needed: &[&str] = match name {
                "bridge" => &["stp", "llc"],
                "stp" => &["llc"],
                "8021q" => &["garp", "stp"],
                "llc" | "garp" => &[],
                _ => return None,
            };
            Some(needed.iter().map(ToString::to_string).collect())
        };
        assert_eq!(
            order(&["bridge", "8021q"], &mut needs).unwrap(),
            ["llc", "stp", "bridge", "garp", "8021q"]
        );
        assert_eq!(order(&["bridge", "no-such"], &mut needs), Err("no_such".to_owned()));
    }

    #[test]
    fn a_circle_ends() {
        let mut needs = |name: &str| Some(vec![if name == "a" { "b" } else { "a" }.to_owned()]);
        assert_eq!(order(&["a"], &mut needs).unwrap(), ["b", "a"]);
    }
}
