// Package grantlogv1connect holds the clients and handlers of the native API's
// services for Connect, gRPC and gRPC-Web, generated from the .proto files above it.
package grantlogv1connect
