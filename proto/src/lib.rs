//! The wire: code generated from the `.proto` files, and nothing else.
//!
//! Each module is one boundary; its `.proto` file says who dials, what delivery means and how it evolves. Generated
//! types stop at the `rpc` modules and codecs of the crates that speak them; `core` never sees them.

/// Defines one boundary's module from its generated file. A boundary with a service has more to excuse in what tonic
/// generates: name those lints after the words.
macro_rules! boundary {
    ($name:ident, $package:literal, $doc:literal, service) => {
        boundary!($name, $package, $doc, clippy::allow_attributes, clippy::allow_attributes_without_reason);
    };
    ($name:ident, $package:literal, $doc:literal $(, $lint:path)*) => {
        #[doc = $doc]
        #[expect(missing_docs, clippy::all, $($lint,)* reason = "generated; the proto file is the documentation")]
        pub mod $name {
            #[doc = "Version 1."]
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

boundary!(jobs, "gangsaw.jobs.v1", "People's programs and the scheduler.", service);
boundary!(admin, "gangsaw.admin.v1", "Operators and the scheduler.", service);
boundary!(node, "gangsaw.node.v1", "Agents and the scheduler.", service);
boundary!(log, "gangsaw.log.v1", "What the scheduler stores.");
boundary!(supervisor, "gangsaw.supervisor.v1", "Agents and supervisors.");

/// The descriptor set of every boundary, for gRPC reflection and for tests that walk every call.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
