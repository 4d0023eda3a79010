//! Plain arithmetic on points of the unit sphere: sums run in f64 and in a fixed order, so that a capture is the same
//! whenever it is drawn. Nothing random, nothing about people.

/// The inner product.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// Scales to length one. The caller's draw is never zero: it comes from a continuous law.
pub(crate) fn normalise(point: &mut [f32]) {
    let length = dot(point, point).sqrt();
    assert!(length > 0.0, "a zero point has no direction");
    for value in point {
        *value = (f64::from(*value) / length) as f32;
    }
}

/// Removes the part along `axis`, which has length one.
pub(crate) fn project_out(point: &mut [f32], axis: &[f32]) {
    let along = dot(point, axis);
    for (value, direction) in point.iter_mut().zip(axis) {
        *value = (f64::from(*value) - along * f64::from(*direction)) as f32;
    }
}

/// `cosine · a + √(1 − cosine²) · b`: for orthonormal `a` and `b`, the unit point whose inner product with `a` is `cosine`.
pub(crate) fn lean(cosine: f64, a: &[f32], b: &[f32]) -> Vec<f32> {
    let sine = (1.0 - cosine * cosine).max(0.0).sqrt();
    a.iter().zip(b).map(|(x, y)| (cosine * f64::from(*x) + sine * f64::from(*y)) as f32).collect()
}
