package intake

import "context"

// ReplayOnce works off one piece of a replay, where one is to be done, and
// returns how many events it looked at. What proves a rejected event is read
// before: a secret that was mended on another node a moment ago counts, and so
// does a certificate, which is not kept with its callback.
func (in *Intake) ReplayOnce(ctx context.Context) (int, error) {
	if in.cfg.Directory == nil {
		return 0, nil
	}
	piece, ok, err := in.cfg.Store.NextReplay(ctx, rematchBatch)
	if err != nil || !ok {
		return 0, err
	}
	if err := in.cfg.Directory.Load(ctx); err != nil {
		return 0, err
	}
	in.cfg.Directory.FetchCertificates(ctx, piece.Rejected)
	changed, err := in.rematch(piece.Events, true)
	if err != nil {
		return 0, err // its lease ends, and it is taken again
	}
	done, err := in.cfg.Store.EndReplayPiece(ctx, piece, changed)
	if done && err == nil {
		in.cfg.Log.Info("replay done", "replay_id", piece.Replay)
	}
	return max(1, len(piece.Events)), err
}
