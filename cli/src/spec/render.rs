//! Faults as people see them: the line, a caret under the place, and what to do.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::read::{Fault, harmless};
use super::tree::Sources;

/// Faults shown before the rest is only counted: a screen or two.
const SHOWN_MAX: usize = 40;

/// Renders all faults, each in its place, in the order of their places.
pub(crate) fn render(sources: &Sources, faults: &[Fault], colour: bool) -> String {
    let mut faults: Vec<&Fault> = faults.iter().collect();
    faults.sort_by_key(|fault| fault.span.as_ref().map(|span| (span.source, span.range.start)));
    let mut out: Vec<String> = faults.iter().take(SHOWN_MAX).map(|fault| one(sources, fault, colour)).collect();
    if faults.len() > SHOWN_MAX {
        out.push(format!("… and {} more faults\n", faults.len() - SHOWN_MAX));
    }
    out.join("\n")
}

/// Renders one fault.
fn one(sources: &Sources, fault: &Fault, colour: bool) -> String {
    let title = Level::ERROR.primary_title(harmless(&fault.message)).id(fault.reason.clone());
    let place = fault.span.as_ref().and_then(|span| Some((sources.0.get(span.source)?, &span.range)));
    let group = match place {
        None => annotate_snippets::Group::with_title(title),
        Some((source, range)) => title.element(
            Snippet::source(source.text.as_str())
                .path(source.name.as_str())
                .annotation(AnnotationKind::Primary.span(visible(&source.text, range))),
        ),
    };
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = renderer.render(&[group]);
    if !fault.hint.is_empty() {
        out.push_str(&format!("\n  hint: {}", harmless(&fault.hint)));
    }
    out.push('\n');
    out
}

/// The part of a range that a caret can stand under: on one line, at least one character, within the text.
fn visible(text: &str, range: &Range<usize>) -> Range<usize> {
    let mut start = range.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let mut end = range.end.clamp(start, line_end);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    start..end
}
