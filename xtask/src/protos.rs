//! The wire's own style: buf's STANDARD rules that matter to us, and a comment on everything a client meets.
//!
//! Checked on the descriptors that protox makes, so no other tool has to be installed.

use std::path::Path;

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, ServiceDescriptorProto};

use crate::Faults;

/// Returns every break of the rules in `proto/gangsaw`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Faults> {
    let folder = root.join("proto");
    let mut files = Vec::new();
    for boundary in std::fs::read_dir(folder.join("gangsaw"))? {
        let name = boundary?.file_name().to_string_lossy().into_owned();
        files.push(format!("gangsaw/{name}/v1/{name}.proto"));
    }
    files.sort();
    let set = protox::compile(&files, [&folder])?;
    let ours = set.file.iter().filter(|file| file.package().starts_with("gangsaw."));
    Ok(ours.flat_map(file).collect())
}

/// Returns the faults of one file.
fn file(file: &FileDescriptorProto) -> Faults {
    let place = file.name();
    let mut faults = Vec::new();
    let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
    if file.package().replace('.', "/") != folder {
        faults.push(format!("{place}: package {} does not match its folder", file.package()));
    }
    if file.syntax() != "proto3" {
        faults.push(format!("{place}: not proto3"));
    }
    if !commented(file, &[12]) {
        faults.push(format!("{place}: no header that says who dials, delivery and evolution"));
    }
    for each in &file.message_type {
        message(file, each, &mut faults);
    }
    for each in &file.enum_type {
        enumeration(file, each, &mut faults);
    }
    for (at, each) in (0..).zip(&file.service) {
        service(file, each, &[6, at], &mut faults);
    }
    faults
}

/// Checks a message, its nested types, and the names of its fields.
fn message(file: &FileDescriptorProto, message: &DescriptorProto, faults: &mut Faults) {
    if message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
        return;
    }
    for field in &message.field {
        let name = field.name();
        if name.chars().any(|letter| letter.is_ascii_uppercase()) {
            faults.push(format!("{}: {}.{name} is not lower_snake_case", file.name(), message.name()));
        }
    }
    for each in &message.nested_type {
        self::message(file, each, faults);
    }
    for each in &message.enum_type {
        enumeration(file, each, faults);
    }
}

/// Checks that values carry the enum's name and that zero means unspecified.
fn enumeration(file: &FileDescriptorProto, each: &EnumDescriptorProto, faults: &mut Faults) {
    let prefix = upper_snake(each.name());
    for value in &each.value {
        if !value.name().starts_with(&format!("{prefix}_")) {
            faults.push(format!("{}: {} does not begin with {prefix}_", file.name(), value.name()));
        }
    }
    let zero = each.value.iter().find(|value| value.number() == 0).map(prost_types::EnumValueDescriptorProto::name);
    if zero != Some(&format!("{prefix}_UNSPECIFIED")) {
        faults.push(format!("{}: {} has no {prefix}_UNSPECIFIED = 0", file.name(), each.name()));
    }
}

/// Checks a service's name, that each call has its own request and response, and that each is documented.
fn service(file: &FileDescriptorProto, service: &ServiceDescriptorProto, path: &[i32], faults: &mut Faults) {
    let place = file.name();
    if !service.name().ends_with("Service") {
        faults.push(format!("{place}: service {} does not end with Service", service.name()));
    }
    for (at, method) in (0..).zip(&service.method) {
        for (kind, name) in [("Request", method.input_type()), ("Response", method.output_type())] {
            let wanted = format!(".{}.{}{kind}", file.package(), method.name());
            if name != wanted {
                faults.push(format!("{place}: {}.{} uses {name}, not {wanted}", service.name(), method.name()));
            }
        }
        if !commented(file, &[path, &[2, at]].concat()) {
            faults.push(format!("{place}: {}.{} has no comment", service.name(), method.name()));
        }
    }
}

/// Says whether the element at `path` has a comment before it.
fn commented(file: &FileDescriptorProto, path: &[i32]) -> bool {
    file.source_code_info.iter().flat_map(|info| &info.location).any(|location| {
        let detached = location.leading_detached_comments.iter().any(|text| !text.trim().is_empty());
        location.path == path && (detached || !location.leading_comments().trim().is_empty())
    })
}

/// Returns `OnDisconnect` as `ON_DISCONNECT`.
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn names_become_upper_snake_case() {
        assert_eq!(upper_snake("OnDisconnect"), "ON_DISCONNECT");
        assert_eq!(upper_snake("State"), "STATE");
    }

    #[test]
    fn an_enum_without_prefix_and_zero_is_two_faults() {
        let text = "syntax = \"proto3\";\npackage gangsaw.x.v1;\nenum Mode { FAST = 0; }\n";
        let parsed = protox::file::File::from_source("gangsaw/x/v1/x.proto", text).unwrap();
        assert_eq!(
            file(parsed.file_descriptor_proto()),
            [
                "gangsaw/x/v1/x.proto: no header that says who dials, delivery and evolution",
                "gangsaw/x/v1/x.proto: FAST does not begin with MODE_",
                "gangsaw/x/v1/x.proto: Mode has no MODE_UNSPECIFIED = 0",
            ]
        );
    }
}
