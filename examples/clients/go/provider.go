package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

// What a service would look up in its own database, fast enough for somebody
// who is on the line.
var customers = map[string]map[string]string{"1111": {"姓名": "张三", "性别": "男"}}

// README:begin
type answers struct {
	yeta.UnimplementedDialogContextServiceServer
}

// Somebody rings: what should the robot know? By the names that its script has for it.
func (answers) GetDialogContext(_ context.Context, request *yeta.GetDialogContextRequest) (*yeta.GetDialogContextResponse, error) {
	customer, known := customers[request.CallRelationId]
	if !known {
		customer = map[string]string{"姓名": "客户"}
	}
	return &yeta.GetDialogContextResponse{Context: customer}, nil
}

// The script asks, in the middle of a call, what to make of the reply.
func (answers) AnalyzeSemantics(_ context.Context, request *yeta.AnalyzeSemanticsRequest) (*yeta.AnalyzeSemanticsResponse, error) {
	intention := "C"
	if strings.Contains(request.Reply, "好") {
		intention = "A"
	}
	turns := int64(len(request.Dialog))
	return &yeta.AnalyzeSemanticsResponse{Values: []*yeta.SemanticValue{
		{Key: "意向", Value: &yeta.SemanticValue_StringValue{StringValue: intention}},
		{Key: "轮次", Value: &yeta.SemanticValue_IntegerValue{IntegerValue: turns}},
	}}, nil
}

// provider answers what the platform asks while somebody is on the line. Here
// the gateway calls; it waits for 400 ms.
func provider(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	yeta.RegisterDialogContextServiceServer(server, answers{})
	go func() {
		<-ctx.Done()
		server.GracefulStop() // the gateway goes on over another connection
	}()
	fmt.Println("provider: listening on", address)
	return server.Serve(listener)
}

// README:end
