"""Approval flows, requests, votes and grants. Votes and uses are append-only."""

import django.core.validators
import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0006_directories'),
        ('policies', '0005_drafts_and_simulations'),
        ('targets', '0002_tenant_isolation'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ApprovalRequest',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('session_id', models.UUIDField()),
                ('op', models.PositiveIntegerField()),
                ('principal', models.JSONField(help_text="Who asks and on whose behalf, as the session's grant said it.")),
                ('kind', models.CharField(max_length=32)),
                ('verb', models.CharField(blank=True, max_length=200, verbose_name='what is done')),
                ('text', models.TextField(verbose_name='statement')),
                ('text_bytes', models.PositiveBigIntegerField()),
                ('parameters', models.JSONField()),
                ('facts', models.JSONField()),
                ('rule', models.CharField(max_length=200)),
                ('rule_reason', models.TextField(blank=True)),
                ('flow', models.CharField(help_text='By name; several are joined by +.', max_length=700)),
                ('terms', models.JSONField()),
                ('mode', models.CharField(choices=[('hold', 'held'), ('defer', 'deferred')], max_length=8)),
                ('policy_version', models.CharField(max_length=200)),
                ('operation_sha256', models.BinaryField(max_length=32)),
                ('principal_sha256', models.BinaryField(max_length=32)),
                ('template_sha256', models.BinaryField(max_length=32, null=True)),
                ('binding', models.BinaryField(max_length=32)),
                ('state', models.CharField(choices=[('pending', 'pending'), ('granted', 'granted'), ('rejected', 'rejected'), ('expired', 'expired'), ('withdrawn', 'withdrawn'), ('void', 'void')], default='pending', max_length=16)),
                ('stage', models.PositiveSmallIntegerField(default=0)),
                ('expires_at', models.DateTimeField()),
                ('escalates_at', models.DateTimeField(help_text='When more people are asked; empty: never, or they were.', null=True)),
                ('escalated_at', models.DateTimeField(null=True)),
                ('decided_at', models.DateTimeField(null=True)),
                ('decision_reason', models.CharField(blank=True, help_text='The agent is told.', max_length=500)),
                ('is_break_glass', models.BooleanField(default=False, verbose_name='glass broken')),
                ('used_at', models.DateTimeField(null=True)),
                ('preview_asked_at', models.DateTimeField(null=True)),
                ('preview_is_exact', models.BooleanField(default=False, verbose_name='count asked for')),
                ('preview_at', models.DateTimeField(null=True)),
                ('preview_was_exact', models.BooleanField(default=False, verbose_name='counted')),
                ('preview_rows', models.BigIntegerField(null=True)),
                ('preview_plan', models.TextField(blank=True)),
                ('preview_problem', models.CharField(blank=True, max_length=500)),
                ('agent', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.agent')),
                ('rule_author', models.ForeignKey(help_text='Who published it.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('target', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='targets.target')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('worker', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='targets.proxyworker')),
            ],
            options={
                'ordering': ('-created_at',),
            },
        ),
        migrations.CreateModel(
            name='ApprovalGrant',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('scope', models.CharField(choices=[('once', 'this operation, once'), ('template', 'this statement with other values, some times'), ('window', 'everything on the target that asks the same, for a time')], max_length=16)),
                ('flow', models.CharField(max_length=700)),
                ('principal_sha256', models.BinaryField(max_length=32)),
                ('policy_version', models.CharField(max_length=200)),
                ('covers', models.BinaryField(max_length=32)),
                ('uses', models.PositiveIntegerField(help_text='How many it began with.', null=True)),
                ('uses_left', models.PositiveIntegerField(null=True)),
                ('expires_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(null=True)),
                ('end_reason', models.CharField(blank=True, help_text='Why it ended before its time.', max_length=200)),
                ('agent', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.agent')),
                ('target', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='targets.target')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('request', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='grant', to='policies.approvalrequest')),
            ],
            options={
                'ordering': ('-created_at',),
            },
        ),
        migrations.CreateModel(
            name='ApprovalUse',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('session_id', models.UUIDField()),
                ('op', models.PositiveIntegerField()),
                ('operation_sha256', models.BinaryField(max_length=32)),
                ('grant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='used_by', to='policies.approvalgrant')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('created_at',),
            },
        ),
        migrations.CreateModel(
            name='ApprovalVote',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('verdict', models.CharField(choices=[('approve', 'approved'), ('reject', 'rejected'), ('break_glass', 'broke the glass')], max_length=16)),
                ('stage', models.PositiveSmallIntegerField()),
                ('comment', models.CharField(blank=True, max_length=500)),
                ('via', models.CharField(blank=True, help_text='Where: the inbox, REST, Slack, …', max_length=32)),
                ('scope', models.CharField(choices=[('once', 'this operation, once'), ('template', 'this statement with other values, some times'), ('window', 'everything on the target that asks the same, for a time')], default='once', max_length=16)),
                ('uses', models.PositiveIntegerField(default=1)),
                ('window_seconds', models.PositiveIntegerField(default=0)),
                ('request', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='votes', to='policies.approvalrequest')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ('created_at',),
            },
        ),
        migrations.CreateModel(
            name='ApprovalFlow',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('name', models.CharField(max_length=63, validators=[django.core.validators.RegexValidator('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\Z', 'Use 1 to 63 small letters, digits and hyphens, with a letter or digit at both ends.')])),
                ('description', models.CharField(blank=True, max_length=500)),
                ('terms', models.JSONField()),
                ('is_active', models.BooleanField(default=True, help_text='Off: what needs it is refused.', verbose_name='active')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('name',),
                'constraints': [models.UniqueConstraint(fields=('tenant', 'name'), name='approval_flow_once_per_tenant')],
            },
        ),
        migrations.AddIndex(
            model_name='approvalrequest',
            index=models.Index(fields=['tenant', '-created_at'], name='approval_request_recent'),
        ),
        migrations.AddIndex(
            model_name='approvalrequest',
            index=models.Index(fields=['agent', '-created_at'], name='approval_request_by_agent'),
        ),
        migrations.AddIndex(
            model_name='approvalrequest',
            index=models.Index(condition=models.Q(('state', 'pending')), fields=['worker'], name='approval_pending'),
        ),
        migrations.AddIndex(
            model_name='approvalrequest',
            index=models.Index(condition=models.Q(('mode', 'hold'), ('state', 'granted'), ('used_at', None)), fields=['tenant'], name='approval_unused'),
        ),
        migrations.AddConstraint(
            model_name='approvalrequest',
            constraint=models.UniqueConstraint(fields=('tenant', 'session_id', 'op'), name='approval_request_once'),
        ),
        migrations.AddConstraint(
            model_name='approvalrequest',
            constraint=models.UniqueConstraint(condition=models.Q(('mode', 'defer'), ('state', 'pending')), fields=('tenant', 'binding', 'flow'), name='approval_deferred_once'),
        ),
        migrations.AddIndex(
            model_name='approvalgrant',
            index=models.Index(condition=models.Q(('ended_at', None)), fields=['agent', 'target', 'expires_at'], name='approval_grant_open'),
        ),
        migrations.AddConstraint(
            model_name='approvalgrant',
            constraint=models.CheckConstraint(condition=models.Q(('scope', 'window'), ('uses_left__isnull', False), _connector='OR'), name='approval_grant_is_bounded'),
        ),
        migrations.AddConstraint(
            model_name='approvaluse',
            constraint=models.UniqueConstraint(fields=('tenant', 'session_id', 'op'), name='approval_use_once'),
        ),
        migrations.AddConstraint(
            model_name='approvalvote',
            constraint=models.UniqueConstraint(condition=models.Q(('verdict', 'break_glass'), _negated=True), fields=('request', 'user'), name='approval_vote_once'),
        ),
        migrations.AddConstraint(
            model_name='approvalvote',
            constraint=models.UniqueConstraint(condition=models.Q(('verdict', 'break_glass')), fields=('request',), name='approval_glass_broken_once'),
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('policies_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('policies_{table}')",
            )
            for table in ("approvalflow", "approvalrequest", "approvalvote", "approvalgrant", "approvaluse")
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_make_append_only('policies_{table}')",
                reverse_sql=f"DROP TRIGGER refuse_truncate ON policies_{table}; DROP TRIGGER refuse_change ON policies_{table}",
            )
            for table in ("approvalvote", "approvaluse")
        ),
    ]
