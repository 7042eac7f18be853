//! Matrix products over slices: the one place that calls the GEMM library.
//!
//! Row-major throughout. The library splits work over rows and columns and never over
//! the summed dimension, so a product does not depend on the number of threads; the
//! tests check it. Its kernels differ by CPU model, so bits may differ between models.

#![expect(unsafe_code, reason = "the GEMM library takes raw pointers")]

use gemm::Parallelism;
use rayon::prelude::*;

use super::Real;

/// Multiplications below which a product stays in its thread: at some 30 G a second they
/// take half a millisecond, and on a busy machine a second thread can take longer to wake.
const POOL_MULTIPLICATIONS_MIN: usize = 1 << 24;

/// Chunks below which a loop over them stays in its thread, for the same reason.
const POOL_CHUNKS_MIN: usize = 8;

/// A matrix to read: `rows × columns`, stored by rows, or by columns if `transposed`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// Views `data` as rows of `columns` elements.
    pub(super) fn new(data: &'a [T], columns: usize) -> Matrix<'a, T> {
        Matrix { data, rows: data.len() / columns, columns, transposed: false }
    }

    /// The transpose; nothing moves.
    pub(super) fn transpose(self) -> Matrix<'a, T> {
        Matrix { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    fn strides(&self) -> (isize, isize) {
        if self.transposed { (self.rows.cast_signed(), 1) } else { (1, self.columns.cast_signed()) }
    }
}

/// Whether a product may use the thread pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The caller already runs on the pool, or the product is small.
    One,
    /// All threads of the pool, if the product is large enough.
    Pool,
}

/// Computes `out = a · b`, or adds it to `out`.
///
/// # Panics
/// If the shapes do not fit: they are computed by the ops, not given by a user.
pub(super) fn multiply<T: Real>(out: &mut [T], a: Matrix<'_, T>, b: Matrix<'_, T>, add: bool, threads: Threads) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a product");
    assert_eq!(out.len(), a.rows * b.columns, "result of a product");
    assert_eq!(a.data.len(), a.rows * a.columns, "left side of a product");
    assert_eq!(b.data.len(), b.rows * b.columns, "right side of a product");
    if out.is_empty() {
        return;
    }
    let large = a.rows * a.columns * b.columns >= POOL_MULTIPLICATIONS_MIN;
    let parallelism = match (threads, rayon::current_num_threads()) {
        (Threads::Pool, count) if count > 1 && large => Parallelism::Rayon(count),
        (Threads::Pool | Threads::One, _) => Parallelism::None,
    };
    let ((a_column, a_row), (b_column, b_row)) = (a.strides(), b.strides());
    // SAFETY: the asserts proved that each slice holds exactly its matrix, and the
    // strides address rows × columns elements of it. `out` is borrowed mutably, so it
    // overlaps neither input. T is f32 or f64, the types the library dispatches on.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns.cast_signed(),
            add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            T::one(),
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn on_pool(chunks: usize) -> bool {
    chunks >= POOL_CHUNKS_MIN && rayon::current_num_threads() > 1
}

/// Runs `work` on each chunk of `out`, on the pool if there are enough.
pub(super) fn each_chunk<T: Real>(out: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Send + Sync) {
    if !on_pool(out.len().div_ceil(chunk)) {
        out.chunks_mut(chunk).enumerate().for_each(|(i, part)| work(i, part));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| work(i, part));
    }
}

/// Sums `part(0) + part(1) + …`, each of `size` elements, always in that order.
pub(super) fn sum_parts<T: Real>(size: usize, parts: usize, part: impl Fn(usize, &mut [T]) + Send + Sync) -> Vec<T> {
    let one = |i: usize| {
        let mut sum = vec![T::zero(); size];
        part(i, &mut sum);
        sum
    };
    let add = |mut total: Vec<T>, next: Vec<T>| {
        total.iter_mut().zip(&next).for_each(|(t, n)| *t += *n);
        total
    };
    let zero = vec![T::zero(); size];
    if !on_pool(parts) {
        (0..parts).map(one).fold(zero, add)
    } else {
        let computed: Vec<Vec<T>> = (0..parts).into_par_iter().map(one).collect();
        computed.into_iter().fold(zero, add)
    }
}
