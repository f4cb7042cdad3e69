// Package grantlogv1 is the native API as Go types, generated from the .proto files
// beside it, which explain every service, message and field.
//
// Only the handlers and their clients use these types: package serve reads them into
// grantlog's own types and writes those back.
package grantlogv1
