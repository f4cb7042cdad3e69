package serve

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

var errPending = connect.NewError(connect.CodeUnimplemented, errors.New("not built yet"))

func (s *Server) Explain(context.Context, *pb.ExplainRequest) (*pb.ExplainResponse, error) {
	return nil, errPending
}
