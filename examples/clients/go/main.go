// Command calls shows how to place calls through yeta-gateway, the ways to their results,
// and how to answer what the platform asks during a call.
//
//	go generate
//	go run . upload [ADDRESS [ROWS.csv]]   submits many rows, and tells what became of each
//	go run . watch  [ADDRESS]   calls two numbers and waits for what becomes of each call
//	go run . worker [ADDRESS]   processes the results of calls, sharing them with other workers
//	go run . reader [ADDRESS]   prints every push, and keeps its own place
//	go run . provider [ADDRESS] answers the gateway there; dialog_context.endpoint names it
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

//go:generate buf generate

// A long dialog may take more than the 4 MiB that gRPC allows by default.
const largestEvent = 32 << 20

var programs = map[string]func(context.Context, *grpc.ClientConn) error{
	"reader": reader,
	"upload": upload,
	"watch":  watch,
	"worker": worker,
}

var rows = []*yeta.Row{
	{Values: []string{"13000000001", "张先生"}},
	{Values: []string{"13000000002", "王女士"}},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "provider" {
		address := "localhost:50061"
		if len(os.Args) > 2 {
			address = os.Args[2]
		}
		if err := provider(ctx, address); err != nil {
			log.Fatal(err)
		}
		return
	}
	address := "localhost:50051"
	if fromEnv := os.Getenv("YETA_GATEWAY"); fromEnv != "" {
		address = fromEnv
	}
	if len(os.Args) > 2 {
		address = os.Args[2]
	}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		log.Fatal("usage: calls watch|worker|reader|provider [ADDRESS] | upload [ADDRESS [ROWS.csv]]")
	}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestEvent)))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if err := programs[os.Args[1]](ctx, conn); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// callOutRequest asks for two rows to be called, by a robot of the account on a
// line that is free.
func callOutRequest(ctx context.Context, conn *grpc.ClientConn) (*yeta.CallOutRequest, error) {
	config, err := yeta.NewConfigServiceClient(conn).QueryConfig(ctx, &yeta.QueryConfigRequest{})
	if err != nil {
		return nil, err
	}
	for _, robot := range config.Robots {
		for _, line := range config.Lines {
			if robot.RobotId == "719" && line.Status == yeta.LineStatus_LINE_STATUS_IDLE {
				return &yeta.CallOutRequest{
					RobotId:    robot.RobotId,
					LineNum:    line.LineNum,
					CallColumn: robot.CallColumn, // such as 客户手机号码, 姓名
					CallList:   rows,
				}, nil
			}
		}
	}
	return nil, fmt.Errorf("no idle line, or no robot 719")
}
