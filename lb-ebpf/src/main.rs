//! The XDP program.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ArrayOfMaps},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

#[btf_map]
static RINGS: ArrayOfMaps<Array<[u16; 65537], 1>, 64> = ArrayOfMaps::new();

#[xdp]
pub fn xvip(ctx: XdpContext) -> u32 {
    let h = unsafe { aya_ebpf::helpers::bpf_get_prandom_u32() };
    let slot = ((u64::from(h) * 65537) >> 32) as usize;
    let Some(ring) = RINGS.get(0) else { return xdp_action::XDP_PASS };
    let Some(r) = ring.get(0) else { return xdp_action::XDP_PASS };
    if r.get(slot).copied().unwrap_or(0) == 7 {
        return xdp_action::XDP_DROP;
    }
    let _ = ctx.data();
    xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
