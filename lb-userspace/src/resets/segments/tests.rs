use super::*;

#[test]
fn what_comes_after_wraps() {
    assert!(is_after(1, 0));
    assert!(is_after(5, u32::MAX));
    assert!(!is_after(u32::MAX, 5));
    assert!(!is_after(7, 7));
}
